"""`python -m causey._dump STORE RUN [--flow FILE]`: artifacts of a run as JSON, by step and task, for comparing runs.

`--flow` imports the flow file first, which artifacts of classes defined there need.
"""

from __future__ import annotations

import os
import sys

from causey._objects import ObjectFile, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


LONGEST_TEXT = 1000


def dump(root: str, run: str) -> dict[str, dict[str, Any]]:
    store = Store(root)
    latest: dict[str, tuple[int, ObjectFile]] = {}
    for key in sorted(os.listdir(os.path.join(root, "runs", run))):
        # The coordinator's, written some time after the end of the run.
        if key == "history":
            continue
        found = store.object({"run": run, "key": key, "digest": ""})
        task = found.manifest["task"]
        if found.manifest["error"] is not None:
            continue
        name = f"{task['step']}/{'.'.join(map(str, task['path'])) or '0'}"
        if task["visit"]:
            name += f"~{task['visit']}"
        if name not in latest or latest[name][0] < task["attempt"]:
            latest[name] = (task["attempt"], found)
    return {name: _values(found) for name, (_, found) in sorted(latest.items())}


def _values(found: ObjectFile) -> dict[str, Any]:
    return {name: _shown(found.artifacts[name].load()) for name in sorted(found.artifacts) if not name.startswith("_")}


def _shown(value: Any) -> Any:
    if hasattr(value, "stacktrace") and hasattr(value, "exception"):
        return f"{value.type.rpartition('.')[2]}: {value.exception}"
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"<{len(value)} characters>"
    return value if _is_plain(value) else repr(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def main(arguments: list[str]) -> int:
    if len(arguments) == 4 and arguments[2] == "--flow":
        from causey._flowfile import load_flow

        load_flow(arguments[3])
    elif len(arguments) != 2:
        print("usage: python -m causey._dump STORE RUN [--flow FILE]", file=sys.stderr)
        return 2
    from json import dumps

    print(dumps(dump(arguments[0], arguments[1]), indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
