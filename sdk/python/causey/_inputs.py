"""The `inputs` of a join: one flow instance per parent task, made when it is first touched."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, overload

    from causey._flow import FlowSpec

    Reference = dict[str, Any]

# Flow instances of a wide join that stay when others are touched.
KEPT_FLOWS_MAX = 1024
# Inputs that the worker is asked to verify together.
BLOCK = 256
ENTRY_BYTES = 64


class InputTable:
    """References to the inputs of a wide join, read from a file when they are touched (docs/protocol.md §1, `inputs_table`)."""

    def __init__(self, table: dict[str, Any], verify: Callable[[int, int], None]) -> None:
        self.step: str = table["step"]
        self._path: list[int] = table["path"]
        self._count: int = table["count"]
        self._verify = verify
        self._verified = bytearray(-(-self._count // BLOCK))
        self._file = os.open(table["file"], os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> Reference:
        block = place // BLOCK
        if not self._verified[block]:
            start = block * BLOCK
            self._verify(start, min(BLOCK, self._count - start))
            self._verified[block] = 1
        entry = os.pread(self._file, ENTRY_BYTES, place * ENTRY_BYTES)
        run, key, digest = entry[:16].hex(), entry[16:32].hex(), entry[32:].hex()
        run = "-".join((run[:8], run[8:12], run[12:16], run[16:20], run[20:]))
        return {"step": self.step, "path": [*self._path, place], "run": run, "key": key, "digest": digest}

    def steps(self) -> list[str]:
        return [self.step]

    def last_of(self, step: str) -> int | None:
        return self._count - 1 if step == self.step else None


class InputList(list):  # type: ignore[type-arg]
    """References to the inputs of a join that has few."""

    def steps(self) -> list[str]:
        return [each["step"] for each in self]

    def last_of(self, step: str) -> int | None:
        return next((place for place in reversed(range(len(self))) if self[place]["step"] == step), None)


class Inputs:
    """`inputs[0]`, `for input in inputs` or, by the name of the last step of a branch, `inputs.train`."""

    def __init__(self, references: InputList | InputTable, make: Callable[[int], FlowSpec]) -> None:
        self._references = references
        self._make = make
        self._flows: dict[int, FlowSpec] = {}

    def _flow(self, place: int) -> FlowSpec:
        flow = self._flows.get(place)
        if flow is None:
            if len(self._flows) >= KEPT_FLOWS_MAX:
                del self._flows[next(iter(self._flows))]
            flow = self._flows[place] = self._make(place)
        return flow

    @property
    def flows(self) -> list[FlowSpec]:
        return list(self)

    def __len__(self) -> int:
        return len(self._references)

    def __iter__(self) -> Iterator[FlowSpec]:
        return (self._flow(place) for place in range(len(self._references)))

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, place: int) -> FlowSpec: ...
        @overload
        def __getitem__(self, place: slice) -> list[FlowSpec]: ...

    def __getitem__(self, place: Any) -> Any:
        found = range(len(self._references))[place]
        return self._flow(found) if isinstance(found, int) else [self._flow(each) for each in found]

    def __getattr__(self, step: str) -> FlowSpec:
        # Of a foreach all inputs have the same step; Metaflow's answer is the last of them.
        place = self._references.last_of(step)
        if place is not None:
            return self._flow(place)
        raise AttributeError(f"no input of this join comes from a step '{step}'", name=step, obj=self)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._references.steps()]
