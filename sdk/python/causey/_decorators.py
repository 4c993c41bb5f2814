"""Decorators of steps and flows. They only write down what was asked for; checking and acting happen elsewhere."""

from __future__ import annotations

import sys

from causey._errors import InvalidDecoratorAttribute, InvalidFlowException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Decorator = Callable[[Any], Any]


class Marks:
    """What decorators say about one step or one flow class."""

    __slots__ = ("decorators", "end", "start")

    def __init__(self, start: bool = False, end: bool = False) -> None:
        self.start = start
        self.end = end
        self.decorators: dict[str, dict[str, Any]] = {}


def step_marks(function: Any) -> Marks | None:
    return getattr(function, "_causey_marks", None)


def error_names(on: Any) -> list[str]:
    """The names in @retry(on=…): one error class or name, or several."""
    several = on if isinstance(on, (list, tuple, set, frozenset)) else [] if on is None else [on]
    return [each.__name__ if isinstance(each, type) else each for each in several]


def flow_marks(flow: Any) -> Marks:
    """The class's own marks; those of base classes are merged when the definition is made."""
    marks = flow.__dict__.get("_causey_flow_marks")
    if marks is None:
        marks = flow._causey_flow_marks = Marks()
    return marks  # type: ignore[no-any-return]


def mark_step(name: str, function: Any, attributes: dict[str, Any], repeatable: bool = False) -> Any:
    marks = step_marks(function)
    if marks is None:
        what = getattr(function, "__name__", repr(function))
        raise InvalidFlowException(
            f"@{name} is applied to '{what}', which is not a step",
            hint=f"put @{name} on the line above @step",
        )
    if name in marks.decorators and not repeatable:
        raise InvalidFlowException(f"step '{function.__name__}' has @{name} twice", hint="keep one of them")
    marks.decorators[name] = attributes
    return function


def mark_flow(name: str, flow: Any, attributes: dict[str, Any], repeatable: bool = False) -> Any:
    if not isinstance(flow, type):
        raise InvalidFlowException(
            f"@{name} is applied to '{getattr(flow, '__name__', flow)}', which is not a flow class",
            hint=f"put @{name} above the class that derives from FlowSpec",
        )
    decorators = flow_marks(flow).decorators
    if name in decorators and not repeatable:
        raise InvalidFlowException(
            f"flow '{flow.__name__}' has @{name} twice",
            hint="list several events with events=[…]" if name == "trigger" else "keep one of them",
        )
    decorators[name] = attributes
    return flow


def _mark_schedule(name: str, flow: Any, attributes: dict[str, Any]) -> Any:
    """A flow may have several: decorators nearer to the class are applied first, and come last."""
    before = flow_marks(flow).decorators.get(name, {"all": []})["all"] if isinstance(flow, type) else []
    return mark_flow(name, flow, {"all": [attributes, *before]}, repeatable=True)


def mark_step_or_flow(name: str, decorated: Any, attributes: dict[str, Any]) -> Any:
    return (mark_flow if isinstance(decorated, type) else mark_step)(name, decorated, attributes)


def _decorator(name: str, defaults: dict[str, Any], mark: Any) -> Callable[..., Any]:
    def decorate(function: Any = None, **attributes: Any) -> Any:
        unknown = [attribute for attribute in attributes if attribute not in defaults]
        if unknown:
            from causey._suggest import did_you_mean

            raise InvalidDecoratorAttribute(
                f"@{name} does not know the attribute '{unknown[0]}'",
                hint=did_you_mean(unknown[0], defaults) or f"it takes {', '.join(defaults)}",
            )
        if function is not None:
            return mark(name, function, dict(defaults))
        return lambda decorated: mark(name, decorated, {**defaults, **attributes})

    decorate.__name__ = decorate.__qualname__ = name
    return decorate


class _Nothing:
    """Stands for an argument that was not given."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


def wait_for(name: str, *, timeout: Any = None, default: Any = NOTHING) -> Decorator:
    """The step opens when its run has received this signal. May be repeated for several signals.

    `timeout`: seconds or a timedelta; then the run fails, or goes on with `default` as the signal's data.
    """
    if callable(name):
        raise InvalidFlowException(
            f"@wait_for of '{getattr(name, '__name__', name)}' names no signal", hint='write @wait_for("name")'
        )
    signal = {"name": name, "timeout": timeout, "default": default}

    def decorate(function: Any) -> Any:
        marks = step_marks(function)
        earlier = marks.decorators.get("wait_for", {}).get("signals", []) if marks else []
        # Decorators apply from the bottom: the topmost comes first.
        return mark_step("wait_for", function, {"signals": [signal, *earlier]}, repeatable=True)

    return decorate


if TYPE_CHECKING:

    def approval(function: Any = None, *, by: Any = (), timeout: Any = None) -> Any: ...

    def retry(
        function: Any = None,
        *,
        times: int = 3,
        minutes_between_retries: float = 2,
        seconds_between_retries: float | None = None,
        factor: float = 1.0,
        max_seconds: float = 86400.0,
        jitter: float = 0.0,
        on: Any = None,
    ) -> Any: ...

    def timeout(function: Any = None, *, seconds: float = 0, minutes: float = 0, hours: float = 0) -> Any: ...

    def grace(function: Any = None, *, seconds: float = 5) -> Any: ...

    def catch(function: Any = None, *, var: str | None = None, print_exception: bool = True) -> Any: ...

    def resources(
        function: Any = None,
        *,
        cpu: float | str = 1,
        memory: int | str | None = None,
        gpu: float | str | None = None,
        disk: int | str | None = None,
        shared_memory: int | str | None = None,
        gpu_model: str | None = None,
        gpu_memory: int | str | None = None,
        pool: str | None = None,
        spill: str | None = None,
        spill_seconds: float | None = None,
        labels: dict[str, str] | None = None,
        custom: dict[str, float] | None = None,
    ) -> Any: ...

    def environment(function: Any = None, *, vars: dict[str, Any] | None = None) -> Any: ...

    def secrets(function: Any = None, *, sources: Any = (), role: str | None = None) -> Any: ...

    def pypi(
        function: Any = None,
        *,
        packages: dict[str, Any] | None = None,
        python: str | None = None,
        disabled: bool | None = None,
    ) -> Any: ...

    def pypi_base(
        flow: Any = None,
        *,
        packages: dict[str, Any] | None = None,
        python: str | None = None,
        disabled: bool | None = None,
    ) -> Any: ...

    def conda(
        function: Any = None,
        *,
        packages: dict[str, Any] | None = None,
        libraries: dict[str, Any] | None = None,
        python: str | None = None,
        disabled: bool | None = None,
    ) -> Any: ...

    def conda_base(
        flow: Any = None,
        *,
        packages: dict[str, Any] | None = None,
        libraries: dict[str, Any] | None = None,
        python: str | None = None,
        disabled: bool | None = None,
    ) -> Any: ...

    def host(function: Any = None, *, mode: str = "fork") -> Any: ...

    def parallel(function: Any = None, *, gather_seconds: float | None = None) -> Any: ...

    def recursion(function: Any = None, *, visits_max: int = 1000) -> Any: ...

    def memoize(function: Any = None, *, version: str | None = None, expires: Any = None) -> Any: ...

    def schedule(
        flow: Any = None,
        *,
        cron: str | None = None,
        weekly: bool = False,
        daily: bool = True,
        hourly: bool = False,
        timezone: str | None = None,
        catch_up: str | bool = "latest",
        catch_up_max: int = 100,
        jitter_seconds: int = 0,
        parameters: dict[str, str] | None = None,
    ) -> Any: ...

    def concurrency(flow: Any = None, *, strategy: str = "queue", max: int = 1) -> Any: ...

    def priority(flow: Any = None, *, level: int = 0) -> Any: ...

    def trigger(
        flow: Any = None,
        *,
        event: Any = None,
        events: Any = None,
        options: dict[str, Any] | None = None,
    ) -> Any: ...

else:
    retry = _decorator(
        "retry",
        {
            "times": 3,
            "minutes_between_retries": 2,
            "seconds_between_retries": None,
            "factor": 1.0,
            "max_seconds": 86400.0,
            "jitter": 0.0,
            "on": None,
        },
        mark_step,
    )
    # Above a step it limits each attempt, above the class the whole run.
    timeout = _decorator("timeout", {"seconds": 0, "minutes": 0, "hours": 0}, mark_step_or_flow)
    grace = _decorator("grace", {"seconds": 5}, mark_step)
    catch = _decorator("catch", {"var": None, "print_exception": True}, mark_step)
    resources = _decorator(
        "resources",
        {
            "cpu": 1,
            "memory": None,
            "gpu": None,
            "disk": None,
            "shared_memory": None,
            "gpu_model": None,
            "gpu_memory": None,
            "pool": None,
            "spill": None,
            "spill_seconds": None,
            "labels": None,
            "custom": None,
        },
        mark_step,
    )
    approval = _decorator("approval", {"by": (), "timeout": None}, mark_step)
    environment = _decorator("environment", {"vars": {}}, mark_step)
    # Sources are names; workers know the values.
    secrets = _decorator("secrets", {"sources": (), "role": None}, mark_step)
    pypi = _decorator("pypi", {"packages": {}, "python": None, "disabled": None}, mark_step)
    pypi_base = _decorator("pypi_base", {"packages": {}, "python": None, "disabled": None}, mark_flow)
    # Both as @pypi.
    conda = _decorator("conda", {"packages": {}, "libraries": {}, "python": None, "disabled": None}, mark_step)
    conda_base = _decorator("conda_base", {"packages": {}, "libraries": {}, "python": None, "disabled": None}, mark_flow)
    host = _decorator("host", {"mode": "fork"}, mark_step)
    # `gather_seconds`: how long its members may take to come together.
    parallel = _decorator("parallel", {"gather_seconds": None}, mark_step)
    recursion = _decorator("recursion", {"visits_max": 1000}, mark_step)
    # `version` stands for the code; results older than `expires` are not taken.
    memoize = _decorator("memoize", {"version": None, "expires": None}, mark_step)
    priority = _decorator("priority", {"level": 0}, mark_flow)
    trigger = _decorator("trigger", {"event": None, "events": None, "options": None}, mark_flow)

    def _lined(name: str, defaults: dict[str, Any], mark: Any) -> Callable[..., Any]:
        """A decorator that notes the line it stands on: what is wrong with it is only known to the server."""

        def decorate(flow: Any = None, **attributes: Any) -> Any:
            line = sys._getframe(1).f_lineno
            noting = _decorator(name, defaults, lambda name, flow, given: mark(name, flow, {**given, "line": line}))
            return noting(flow, **attributes)

        decorate.__name__ = decorate.__qualname__ = name
        return decorate

    # The first five with Metaflow's defaults.
    schedule = _lined(
        "schedule",
        {
            "cron": None,
            "weekly": False,
            "daily": True,
            "hourly": False,
            "timezone": None,
            "catch_up": "latest",
            "catch_up_max": 100,
            "jitter_seconds": 0,
            "parameters": None,
        },
        _mark_schedule,
    )
    concurrency = _lined("concurrency", {"strategy": "queue", "max": 1}, mark_flow)
