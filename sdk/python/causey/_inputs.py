"""The `inputs` of a join: one flow instance per parent task, made when it is first touched."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, overload

    from causey._flow import FlowSpec


class Inputs:
    """`inputs[0]`, `for input in inputs` or, by the name of the last step of a branch, `inputs.train`."""

    def __init__(self, steps: list[str], make: Callable[[int], FlowSpec]) -> None:
        self._steps = steps
        self._make = make
        self._flows: dict[int, FlowSpec] = {}

    def _flow(self, place: int) -> FlowSpec:
        flow = self._flows.get(place)
        if flow is None:
            flow = self._flows[place] = self._make(place)
        return flow

    @property
    def flows(self) -> list[FlowSpec]:
        return list(self)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[FlowSpec]:
        return (self._flow(place) for place in range(len(self._steps)))

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, place: int) -> FlowSpec: ...
        @overload
        def __getitem__(self, place: slice) -> list[FlowSpec]: ...

    def __getitem__(self, place: Any) -> Any:
        found = range(len(self._steps))[place]
        return self._flow(found) if isinstance(found, int) else [self._flow(each) for each in found]

    def __getattr__(self, step: str) -> FlowSpec:
        # Of a foreach all inputs have the same step; Metaflow's answer is the last of them.
        for place in reversed(range(len(self._steps))):
            if self._steps[place] == step:
                return self._flow(place)
        raise AttributeError(f"no input of this join comes from a step '{step}'", name=step, obj=self)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._steps]
