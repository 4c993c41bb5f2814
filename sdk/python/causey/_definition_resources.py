"""What @resources says, as numbers: Metaflow's names with Metaflow's units, written as numbers or as text."""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

QUANTITY_MAX = 1024
MEGABYTES_MAX = 2**30
LABELS_MAX = 32
LABEL_BYTES_MAX = 64

# Attribute → field, of those in MB.
_MEGABYTES = {
    "memory": "memory_mb",
    "disk": "disk_mb",
    "shared_memory": "shared_memory_mb",
    "gpu_memory": "gpu_memory_mb",
}


def resources(attributes: dict[str, Any]) -> dict[str, Any]:
    """The definition's resources; everything has been checked."""
    pool, spill = attributes["pool"], attributes["spill"]
    found: dict[str, Any] = {
        "cpu": float(attributes["cpu"]),
        "memory_mb": None,
        "gpu": float(attributes["gpu"] or 0),
        "pool": pool,
    }
    for name, field in _MEGABYTES.items():
        if attributes[name] is not None:
            found[field] = int(float(attributes[name]))
    if attributes["gpu_model"] is not None:
        found["gpu_model"] = attributes["gpu_model"]
    if attributes["labels"]:
        found["labels"] = {name: str(value) for name, value in attributes["labels"].items()}
    if attributes["custom"]:
        found["custom"] = {name: float(value) for name, value in attributes["custom"].items()}
    if spill is not None:
        after = attributes["spill_seconds"]
        found["spill"] = {"pool": spill, **({} if after is None else {"after_seconds": float(after)})}
    return found


def resources_problem(attributes: dict[str, Any]) -> str | None:
    """What is wrong with them, in words."""
    ranges = {"cpu": (0.001, QUANTITY_MAX), "gpu": (0, QUANTITY_MAX), "spill_seconds": (1, math.inf)}
    ranges.update(dict.fromkeys(_MEGABYTES, (1, MEGABYTES_MAX)))
    for name, (least, most) in ranges.items():
        problem = _number_problem(name, attributes[name], least, most)
        if problem:
            return problem
    gpu = float(attributes["gpu"] or 0)
    if gpu > 1 and gpu != int(gpu):
        return f"gpu={attributes['gpu']!r}: ask for whole ones, or for a share of one below 1"
    for name in ("gpu_model", "gpu_memory"):
        if attributes[name] is not None and not gpu:
            return f"{name}= says which GPU, but none is asked for; add gpu=1"
    for name in ("pool", "spill", "gpu_model"):
        value = attributes[name]
        if value is not None and not (isinstance(value, str) and value):
            return f"{name}={value!r} is not a name"
    for name in ("labels", "custom"):
        problem = _table_problem(name, attributes[name])
        if problem:
            return problem
    if attributes["spill"] is not None and attributes["pool"] in (None, attributes["spill"]):
        return f"spill={attributes['spill']!r} needs pool=, the pool to leave for it"
    return None


def _number_problem(name: str, value: Any, least: float, most: float) -> str | None:
    if value is None:
        return None if name != "cpu" else "cpu=None is not a number"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return f"{name}={value!r} is not a number"
    if not least <= number <= most:
        return f"{name}={value!r} is not {'between ' + str(least) + ' and ' + str(most) if most < math.inf else str(least) + ' or more'}"
    return None


def _table_problem(name: str, table: Any) -> str | None:
    if table is None:
        return None
    if not isinstance(table, dict) or len(table) > LABELS_MAX:
        return f"{name}={table!r} is not a dict of at most {LABELS_MAX} entries"
    for key, value in table.items():
        texts = (key,) if name == "custom" else (key, str(value))
        if not all(isinstance(text, str) and 0 < len(text.encode()) <= LABEL_BYTES_MAX for text in texts):
            return f"{name}: {key!r}={value!r} is not 1 to {LABEL_BYTES_MAX} bytes of text"
        if name == "custom":
            problem = _number_problem(f"custom[{key!r}]", value, 0.001, QUANTITY_MAX)
            if problem:
                return problem
    return None
