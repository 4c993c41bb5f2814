"""`FlowSpec` and `@step`: what users derive from. It only routes attribute access; the rest is behind `_causey`."""

from __future__ import annotations

from causey._decorators import Marks, step_marks
from causey._errors import CauseyException
from causey._parameter import Parameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from causey._inputs import Inputs
    from causey._task import Task

# Attributes of FlowSpec itself that are neither artifacts nor class variables of the user.
NOT_CONSTANTS = frozenset({"cmd", "foreach_stack", "index", "input", "name", "script_name"})


def step(
    function: Any = None, *, start: bool = False, end: bool = False, node_info: dict[str, Any] | None = None
) -> Any:
    """Marks a method of a flow as a step. `start` and `end` mark entry and exit when they have other names."""

    def mark(method: Any) -> Any:
        method._causey_marks = Marks(start, end)
        return method

    return mark if function is None else mark(function)


class FlowSpec:
    """Base of every flow; `self` holds the artifacts of the task."""

    _causey: Task | None = None
    name: str

    def __init__(self, use_cli: bool = True) -> None:
        self.name = type(self).__name__
        # Under another module name this file is being looked at by the SDK, not run by the user.
        if use_cli and type(self).__module__ == "__main__":
            from causey._launch import launch

            launch()

    def next(self, *steps: Callable[..., None], **options: Any) -> None:
        """Names the next step; the last statement of every step but the end.

        `self.next(self.a)`, `self.next(self.a, self.b)`, `self.next(self.a, foreach="items")`,
        `self.next(self.a, num_parallel=4)`, which runs a step with @parallel as a gang, or
        `self.next({"x": self.a, "y": self.b}, condition="kind")`, which goes on to the step of `self.kind`.
        """
        from causey._next import transition
        from causey._task import require_task

        task = require_task(self, "self.next")
        task.transition = transition(self, task, steps, options)

    @property
    def index(self) -> int | None:
        """Place of this task in the innermost foreach, from 0; None outside one."""
        task = self._causey
        return task.path[-1] if task is not None and task.path else None

    @property
    def input(self) -> Any:
        """The item of the innermost foreach this task works on; None outside one."""
        task = self._causey
        return task.split_value(self, len(task.path) - 1) if task is not None and task.path else None

    def foreach_stack(self) -> list[tuple[int, int | None, Any]]:
        """(index, number of items, item) of every enclosing foreach, outermost first; of a gang (index, None, index), as in Metaflow."""
        task = self._causey
        if task is None:
            return []
        return [
            (index, None if task.is_gang_level(level) else count, task.split_value(self, level))
            for level, (index, count) in enumerate(zip(task.path, task.splits))
        ]

    def merge_artifacts(
        self, inputs: Inputs, exclude: list[str] | None = None, include: list[str] | None = None
    ) -> None:
        """In a join, takes over what the inputs agree on, by content hash and without loading anything."""
        from causey._merge import merge_artifacts

        merge_artifacts(self, inputs, exclude or [], include or [])

    @property
    def script_name(self) -> str:
        import sys
        from os.path import basename

        return basename(sys.modules[type(self).__module__].__file__ or "")

    def __getattr__(self, name: str) -> Any:
        # Reached only when the instance does not hold the value yet.
        task = self._causey
        if task is not None and name in task.artifacts:
            value = task.load(name)
            self.__dict__[name] = value
            return value
        # A flow that is defined elsewhere has its parameters there too.
        if task is not None and name in task.raw_parameters:
            return task.raw_parameters[name]
        raise AttributeError(f"Flow {type(self).__name__} has no attribute '{name}'", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._causey is not None:
            self._causey.refuse_constant(name)
        object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *(self._causey.artifacts if self._causey else ())]

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self._causey_steps())

    def __str__(self) -> str:
        task = self._causey
        if task is None:
            return f"<flow {type(self).__name__}>"
        index = ",".join(map(str, task.path))
        return f"<flow {type(self).__name__} step {task.step}{f'[{index}]' if index else ''}>"

    def __getstate__(self) -> Any:
        raise CauseyException(
            "Flows can't be serialized. Maybe you tried to assign *self* or one of the *inputs* to an attribute? "
            "Instead of serializing the whole flow, you should choose specific attributes, e.g. *input.some_var*, "
            "to be stored."
        )

    @classmethod
    def _causey_members(cls) -> dict[str, Any]:
        """Class attributes by the rules of inheritance, in order of definition, without FlowSpec's own."""
        members: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            if base is not object and base is not FlowSpec:
                members.update(base.__dict__)
        return members

    @classmethod
    def _causey_steps(cls) -> dict[str, Any]:
        return {name: member for name, member in cls._causey_members().items() if step_marks(member) is not None}

    @classmethod
    def _causey_parameters(cls) -> dict[str, Parameter]:
        return {name: member for name, member in cls._causey_members().items() if isinstance(member, Parameter)}

    @classmethod
    def _causey_constants(cls) -> dict[str, Any]:
        """Class variables that persist as artifacts: everything that is not private, a type or a descriptor."""
        return {
            name: member
            for name, member in cls._causey_members().items()
            if not name.startswith("_")
            and name not in NOT_CONSTANTS
            and not isinstance(member, type)
            and not hasattr(type(member), "__get__")
        }
