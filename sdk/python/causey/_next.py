"""Checks the arguments of self.next while a step runs, with Metaflow's rules and nearly its words."""

from __future__ import annotations

from causey._decorators import step_marks
from causey._errors import InvalidNextException
from causey._task import GANG_MEMBERS_MAX, Transition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._flow import FlowSpec
    from causey._task import Task


def transition(flow: FlowSpec, task: Task, steps: tuple[Any, ...], options: dict[str, Any]) -> Transition:
    step = task.step
    unknown = [option for option in options if option not in ("foreach", "condition", "num_parallel")]
    if unknown:
        raise InvalidNextException(f"step '{step}' passes an unknown keyword argument '{unknown[0]}' to self.next()")
    if task.transition is not None:
        raise InvalidNextException(f"multiple self.next() calls detected in step '{step}': call self.next() only once")
    if options.get("condition") is not None:
        return Transition([_chosen(flow, step, steps, options)])
    if any(isinstance(target, dict) for target in steps):
        raise InvalidNextException(
            f"self.next() in step '{step}' has a dictionary of cases but no condition: add condition='<artifact>'"
        )
    names = [_step_name(flow, step, place, target) for place, target in enumerate(steps, start=1)]
    variable = options.get("foreach")
    if "num_parallel" in options:
        if variable is not None:
            raise InvalidNextException(f"self.next() in step '{step}' combines foreach and num_parallel: use one of them")
        if len(names) != 1:
            raise InvalidNextException(
                f"self.next(…, num_parallel=…) in step '{step}' needs exactly one step, not {len(names)}"
            )
        return Transition(names, size=_size(step, options["num_parallel"]))
    if not variable:
        if not names:
            raise InvalidNextException(
                f"self.next() in step '{step}' names no step: pass at least one, as in self.next(self.end)"
            )
        return Transition(names)
    if not isinstance(variable, str):
        raise InvalidNextException(
            f"the argument to 'foreach' in step '{step}' must be a string, the name of an artifact"
        )
    if len(names) != 1:
        raise InvalidNextException(f"self.next(…, foreach=…) in step '{step}' needs exactly one step, not {len(names)}")
    return Transition(names, variable, _items(flow, step, variable))


def told_transition(flow: FlowSpec, step: str, told: dict[str, Any] | str) -> Transition | None:
    """What the flow says for a step whose code does not: the transition of its definition."""
    if isinstance(told, str):
        return None
    ((kind, how),) = told.items()
    if kind == "linear":
        return Transition([how["to"]])
    if kind == "branch":
        return Transition(list(how["to"]))
    if kind == "foreach":
        return Transition([how["to"]], how["variable"], _items(flow, step, how["variable"]))
    if kind == "switch":
        value = getattr(flow, how["condition"])
        cases = {case["value"]: case["to"] for case in how["cases"]}
        if value not in cases:
            raise RuntimeError(
                f"Switch condition variable '{how['condition']}' has value '{value}' "
                f"which is not in the available cases: {list(cases)}"
            )
        return Transition([cases[value]])
    raise InvalidNextException(f"step '{step}' opens a gang, so its code has to call self.next(…, num_parallel=…)")


def _step_name(flow: FlowSpec, step: str, place: int, target: Any) -> str:
    name = getattr(getattr(target, "__func__", None), "__name__", None)
    if name is None:
        raise InvalidNextException(
            f"argument {place} of self.next() in step '{step}' is not a step: "
            "pass methods of the flow, as in self.next(self.end)"
        )
    if step_marks(getattr(type(flow), name, None)) is None:
        raise InvalidNextException(f"step '{step}' goes to '{name}', which is not a step of the flow")
    return str(name)


def _chosen(flow: FlowSpec, step: str, steps: tuple[Any, ...], options: dict[str, Any]) -> str:
    """The step whose case is the value of the condition."""
    variable = options["condition"]
    if len(steps) != 1 or not isinstance(steps[0], dict) or not steps[0]:
        raise InvalidNextException(
            f"self.next(…, condition=…) in step '{step}' needs one dictionary that maps values to steps"
        )
    if not isinstance(variable, str):
        raise InvalidNextException(
            f"the argument to 'condition' in step '{step}' must be a string, the name of an artifact"
        )
    for other in ("foreach", "num_parallel"):
        if options.get(other) is not None:
            raise InvalidNextException(f"self.next() in step '{step}' combines condition and {other}: use one of them")
    cases = steps[0]
    try:
        value = getattr(flow, variable)
    except AttributeError:
        raise InvalidNextException(
            f"condition variable 'self.{variable}' in step '{step}' does not exist: set it in this step"
        ) from None
    if value not in cases:
        raise RuntimeError(
            f"Switch condition variable '{variable}' has value '{value}' "
            f"which is not in the available cases: {list(cases)}"
        )
    return _step_name(flow, step, 1, cases[value])


def _size(step: str, asked: Any) -> int:
    from operator import index

    try:
        # Whatever counts as an integer, such as those of NumPy; not 2.0, and not True.
        size = None if isinstance(asked, bool) else index(asked)
    except TypeError:
        size = None
    if size is None or not 1 <= size <= GANG_MEMBERS_MAX:
        raise InvalidNextException(
            f"num_parallel={asked!r} in step '{step}' is not a whole number from 1 to {GANG_MEMBERS_MAX}"
        )
    return size


def _items(flow: FlowSpec, step: str, variable: str) -> list[Any]:
    try:
        values = getattr(flow, variable)
    except AttributeError:
        raise InvalidNextException(
            f"foreach variable 'self.{variable}' in step '{step}' does not exist: check the name"
        ) from None
    try:
        items = values if type(values) is list else list(values)
    except Exception as problem:
        raise InvalidNextException(
            f"foreach variable 'self.{variable}' in step '{step}' is not iterable: {problem}"
        ) from None
    if not items:
        raise InvalidNextException(
            f"foreach over 'self.{variable}' in step '{step}' has zero items: it needs at least one"
        )
    return items
