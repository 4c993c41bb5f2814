"""Values in forms that all languages read (docs/protocol.md §1): JSON, bytes, tables. For flows with steps in other languages."""

from __future__ import annotations

from json import dumps, loads
from math import isfinite

from causey._encoding import Encoded, encode
from causey._errors import ArtifactStoreException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._objects import Artifact

# Beyond them other languages lose digits: their numbers are floats.
INTEGER_MAX = 2**53
DEPTH_MAX = 100
_COLUMN_TYPES = {"i": "int", "u": "int", "f": "float", "b": "bool"}


def encode_typed(value: Any) -> Encoded:
    """Only values that come back equal, in type too, are kept in such a form; all others are pickled."""
    kind = type(value)
    if kind is bytes:
        return Encoded([value], "bytes", "bytes")
    if _has_json(value, DEPTH_MAX):
        text = dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return Encoded([text.encode(errors="surrogatepass")], "json", kind.__name__)
    if kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas":
        table = _table(value)
        if table is not None:
            text = dumps(table, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            return Encoded([text.encode()], "table", "DataFrame")
    return encode(value)


def _has_json(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in (str, bool) or value is None:
        return True
    if kind is int:
        return bool(-INTEGER_MAX <= value <= INTEGER_MAX)
    if kind is float:
        return isfinite(value)
    if depth == 0:
        return False
    if kind is list:
        return all(_has_json(item, depth - 1) for item in value)
    if kind is dict:
        return all(type(key) is str and _has_json(item, depth - 1) for key, item in value.items())
    return False


def _table(frame: Any) -> dict[str, Any] | None:
    """A frame of plain columns with the index 0, 1, 2 …; None for any other."""
    index = frame.index
    if type(index).__name__ != "RangeIndex" or index.start != 0 or index.step != 1 or index.name is not None:
        return None
    names = list(frame.columns)
    if len(set(names)) != len(names) or not all(type(name) is str for name in names):
        return None
    types, values = [], []
    for name in names:
        column = frame[name]
        kind = getattr(column.dtype, "kind", "")
        cells = [None if missing else cell for cell, missing in zip(column.tolist(), column.isna().tolist())]
        if kind in _COLUMN_TYPES and str(column.dtype).islower():
            if not all(_has_json(cell, 0) for cell in cells):
                return None
            types.append(_COLUMN_TYPES[kind])
        elif all(cell is None or type(cell) is str for cell in cells):
            types.append("str")
        else:
            return None
        values.append(cells)
    return {"columns": names, "types": types, "values": values}


def decode_table(content: bytes) -> Any:
    """A data frame; where pandas is not installed a list of records."""
    table = loads(content)
    names, values = table["columns"], table["values"]
    try:
        import pandas  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return [dict(zip(names, row)) for row in zip(*values)]
    return pandas.DataFrame({name: _column(pandas, cells, kind) for name, cells, kind in zip(names, values, table["types"])})


def _column(pandas: Any, cells: list[Any], kind: str) -> Any:
    missing = any(cell is None for cell in cells)
    types = {"int": "Int64" if missing else "int64", "float": "float64", "bool": "boolean" if missing else "bool"}
    if kind == "str" and any(cell is not None for cell in cells):
        # As pandas itself would have it, which differs between versions.
        return pandas.Series(cells)
    return pandas.Series(cells, dtype=types.get(kind, "object"))


def only_r_reads(name: str, artifact: Artifact) -> ArtifactStoreException:
    step = artifact.step
    return ArtifactStoreException(
        f"artifact '{name}', which step '{step}' left, is kept as rds, which only R reads (its type there is {artifact.type})\n"
        "hint: leave it as numbers, text, lists of them or a data frame: those are kept so that every language reads them"
    )
