"""A checked flow class as the DEFINITION of docs/protocol.md §4."""

from __future__ import annotations

import os

from causey._check import check_graph, in_order_of_the_graph
from causey._decorators import error_names
from causey._definition_gates import gate_problems, step_gate
from causey._definition_memo import memo_problems, step_memo
from causey._definition_resources import resources, resources_problem
from causey._definition_surroundings import surroundings, surroundings_problems
from causey._graph import NoSource, read_graph
from causey._problem import DECORATOR, GRAPH, FlowProblem, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._flow import FlowSpec
    from causey._graph import Node

RETRIES_MAX = 100
VISITS_MAX = 100_000
TIMEOUT_SECONDS_MAX = 365 * 86_400
GRACE_SECONDS_MAX = 3600
PRIORITY_MAX = 100
_HOST_MODES = ("fork", "reuse", "spawn")


def definition(flow: type[FlowSpec], path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The definition, and the environments that its steps ask for. Raises FlowProblem with everything that is wrong."""
    from causey._definition_environments import environments
    from causey._definition_parameters import parameters, parameters_problems
    from causey._definition_schedules import concurrency, schedules
    from causey._definition_triggers import triggers

    path = os.path.abspath(path)
    try:
        graph = read_graph(flow)
    except NoSource as problem:
        raise FlowProblem(Problem(GRAPH, f"the source of the steps cannot be read: {problem}", path)) from None
    problems = check_graph(flow.__name__, path, graph)
    if not problems:
        problems = [problem for node in graph.values() for problem in _decorator_problems(node)]
    found_environments, environment_problems = environments(flow, graph, path)
    problems += environment_problems
    problems += parameters_problems(flow, path)
    run_timeout, timeout_problems = _run_timeout(flow, path)
    problems += timeout_problems
    priority, priority_problems = _priority(flow, path)
    problems += priority_problems
    found_triggers, trigger_problems = triggers(flow, path)
    problems += trigger_problems
    found_schedules, schedule_problems = schedules(flow, path)
    found_concurrency, concurrency_problems = concurrency(flow, path)
    problems += schedule_problems + concurrency_problems
    if len(flow.__name__) > 64 or not flow.__name__.isascii():
        problems.append(
            Problem(
                GRAPH,
                f"flow name '{flow.__name__}' is not allowed",
                path,
                hint="use up to 64 ASCII letters, digits and underscores",
            )
        )
    if problems:
        raise FlowProblem(*problems)
    made = {
        "format": 1,
        "name": flow.__name__,
        "language": "python",
        "file": os.path.basename(path),
        "doc": _cleaned(flow.__doc__),
        "steps": [_step(node) for node in in_order_of_the_graph(graph)],
        "parameters": parameters(flow, path),
        "triggers": found_triggers,
        **({"schedules": found_schedules} if found_schedules else {}),
        **({"concurrency": found_concurrency} if found_concurrency else {}),
        **({"timeout_seconds": run_timeout} if run_timeout is not None else {}),
        **({"standing": {"priority": priority}} if priority is not None else {}),
    }
    return made, found_environments


def _cleaned(doc: str | None) -> str:
    return "\n".join(line.strip() for line in (doc or "").strip().splitlines())


def _step(node: Node) -> dict[str, Any]:
    decorators = node.marks.decorators
    return {
        "name": node.name,
        "line": node.line,
        "doc": node.doc,
        "join": node.is_join,
        "next": _next(node),
        "retry": _retry(decorators["retry"]) if "retry" in decorators else None,
        "catch": {"variable": decorators["catch"]["var"]} if "catch" in decorators else None,
        "resources": resources(decorators["resources"]) if "resources" in decorators else None,
        "host": decorators["host"]["mode"] if "host" in decorators else None,
        **({"timeout_seconds": _seconds(decorators["timeout"])} if "timeout" in decorators else {}),
        **({"grace_seconds": float(decorators["grace"]["seconds"])} if "grace" in decorators else {}),
        **({"visits_max": decorators["recursion"]["visits_max"]} if "recursion" in decorators else {}),
        **_gather(decorators.get("parallel") or {}),
        **({"gate": gate} if (gate := step_gate(decorators)) else {}),
        **({"memo": memo} if (memo := step_memo(decorators)) is not None else {}),
        **({"surroundings": around} if (around := surroundings(decorators)) else {}),
    }


def _gather(parallel: dict[str, Any]) -> dict[str, float]:
    seconds = parallel.get("gather_seconds")
    return {} if seconds is None else {"gather_seconds": float(seconds)}


def _next(node: Node) -> dict[str, Any] | str:
    transition = node.transition
    if transition is None:
        return "end"
    if transition.condition is not None:
        cases = [{"value": value, "to": target} for value, target in transition.cases.items()]
        return {"switch": {"condition": transition.condition, "cases": cases}}
    if transition.gang:
        return {"gang": {"to": transition.targets[0]}}
    if transition.variable is not None:
        return {"foreach": {"to": transition.targets[0], "variable": transition.variable}}
    if len(transition.targets) > 1:
        return {"branch": {"to": transition.targets}}
    return {"linear": {"to": transition.targets[0]}}


def _retry(attributes: dict[str, Any]) -> dict[str, Any]:
    seconds = attributes["seconds_between_retries"]
    delay = float(attributes["minutes_between_retries"]) * 60 if seconds is None else float(seconds)
    return {
        "times": int(attributes["times"]),
        "delay_seconds": delay,
        "factor": float(attributes["factor"]),
        "cap_seconds": float(attributes["max_seconds"]),
        "jitter": float(attributes["jitter"]),
        **({"on": names} if (names := error_names(attributes["on"])) else {}),
    }


def _seconds(timeout: dict[str, Any]) -> float:
    return float(timeout["hours"]) * 3600 + float(timeout["minutes"]) * 60 + float(timeout["seconds"])


def _timeout_problem(timeout: dict[str, Any]) -> str | None:
    problem = _out_of_range(timeout, {"seconds": (0, None), "minutes": (0, None), "hours": (0, None)})
    if problem is None and not 0 < _seconds(timeout) <= TIMEOUT_SECONDS_MAX:
        return f"{_seconds(timeout):g} seconds are not between 0 (excluded) and {TIMEOUT_SECONDS_MAX}"
    return problem


def _priority(flow: type[FlowSpec], path: str) -> tuple[int | None, list[Problem]]:
    """The nearest @priority above the class or one of its bases."""
    for base in flow.__mro__:
        marks = base.__dict__.get("_causey_flow_marks")
        if marks is not None and "priority" in marks.decorators:
            level = marks.decorators["priority"]["level"]
            if isinstance(level, int) and not isinstance(level, bool) and -PRIORITY_MAX <= level <= PRIORITY_MAX:
                return level, []
            message = f"@priority of flow '{flow.__name__}': level={level!r} is no whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}"
            return None, [Problem(DECORATOR, message, path, hint="the higher, the earlier; 0 is ordinary")]
    return None, []


def _run_timeout(flow: type[FlowSpec], path: str) -> tuple[float | None, list[Problem]]:
    """The nearest @timeout above the class or one of its bases."""
    for base in flow.__mro__:
        marks = base.__dict__.get("_causey_flow_marks")
        if marks is not None and "timeout" in marks.decorators:
            problem = _timeout_problem(marks.decorators["timeout"])
            if problem is None:
                return _seconds(marks.decorators["timeout"]), []
            message = f"@timeout of flow '{flow.__name__}': {problem}"
            return None, [Problem(DECORATOR, message, path, hint="give it seconds=, minutes= or hours=")]
    return None, []


def _decorator_problems(node: Node) -> list[Problem]:
    from causey._refused import STEP_DECORATORS

    problems = []

    def refuse(name: str, message: str, hint: str | None = None) -> None:
        problems.append(Problem(DECORATOR, message, node.file, node.decorator_line(name), node.name, hint))

    decorators = node.marks.decorators
    for name in decorators:
        if name in STEP_DECORATORS:
            refuse(name, f"step '{node.name}' has @{name}, which Causey does not offer yet", STEP_DECORATORS[name])
    if "catch" in decorators:
        if node.transition is not None and node.transition.variable is not None:
            refuse(
                "catch",
                f"step '{node.name}' has @catch and splits with foreach",
                "let another step split: the items would be missing after a failure",
            )
        if node.opens_gang:
            refuse(
                "catch",
                f"step '{node.name}' has @catch and num_parallel",
                "let another step open the gang: after a failure nobody knows how many members it has",
            )
        if "parallel" in decorators:
            refuse(
                "catch",
                f"step '{node.name}' has @catch and @parallel",
                "use @retry, which tries the gang again as a whole: its members cannot go on without one of them",
            )
        if node.switches:
            refuse(
                "catch",
                f"step '{node.name}' has @catch and a switch",
                "let another step switch: after a failure there is no value to choose by",
            )
        variable = decorators["catch"]["var"]
        if variable is not None and not (isinstance(variable, str) and variable.isidentifier()):
            refuse(
                "catch", f"@catch(var={variable!r}) of step '{node.name}' is not a name", "use a name such as 'error'"
            )
    if "retry" in decorators:
        problem = _out_of_range(
            decorators["retry"],
            {
                "times": (0, RETRIES_MAX),
                "minutes_between_retries": (0, None),
                "seconds_between_retries": (0, None),
                "factor": (1, None),
                "max_seconds": (0, None),
                "jitter": (0, 1),
            },
        )
        if problem:
            refuse("retry", f"@retry of step '{node.name}': {problem}")
        for name in error_names(decorators["retry"]["on"]):
            if not (isinstance(name, str) and name):
                refuse(
                    "retry",
                    f"@retry of step '{node.name}': on={name!r} is no error class",
                    "name classes, as in on=[ConnectionError, 'TimeoutException']",
                )
    if "timeout" in decorators:
        problem = _timeout_problem(decorators["timeout"])
        if problem:
            refuse("timeout", f"@timeout of step '{node.name}': {problem}", "give it seconds=, minutes= or hours=")
    if "parallel" in decorators and decorators["parallel"]["gather_seconds"] is not None:
        problem = _out_of_range(decorators["parallel"], {"gather_seconds": (0.001, TIMEOUT_SECONDS_MAX)})
        if problem:
            refuse("parallel", f"@parallel of step '{node.name}': {problem}")
    for name, message, hint in (*gate_problems(node), *memo_problems(node), *surroundings_problems(node)):
        refuse(name, message, hint)
    if "grace" in decorators:
        problem = _out_of_range(decorators["grace"], {"seconds": (0, GRACE_SECONDS_MAX)})
        if problem:
            refuse("grace", f"@grace of step '{node.name}': {problem}")
    if "resources" in decorators:
        problem = resources_problem(decorators["resources"])
        if problem:
            refuse("resources", f"@resources of step '{node.name}': {problem}")
    if "recursion" in decorators:
        visits = decorators["recursion"]["visits_max"]
        if not node.recurs:
            refuse("recursion", f"step '{node.name}' has @recursion, but no case of a switch leads back to it")
        elif type(visits) is not int or not 1 <= visits <= VISITS_MAX:
            refuse(
                "recursion",
                f"@recursion of step '{node.name}': visits_max={visits!r} is not a whole number between 1 and {VISITS_MAX}",
            )
    if "host" in decorators and decorators["host"]["mode"] not in _HOST_MODES:
        refuse(
            "host",
            f"@host(mode={decorators['host']['mode']!r}) of step '{node.name}' is unknown",
            f"use one of {', '.join(_HOST_MODES)}"
            + ("; a worker as a whole may run in a container" if decorators["host"]["mode"] == "container" else ""),
        )
    return problems


def _out_of_range(attributes: dict[str, Any], ranges: dict[str, tuple[float, float | None]]) -> str | None:
    for name, (least, most) in ranges.items():
        value = attributes[name]
        if value is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            return f"{name}={value!r} is not a number"
        if not number >= least or (most is not None and number > most) or number == float("inf"):
            return (
                f"{name}={value!r} is not {f'between {least} and {most}' if most is not None else f'{least} or more'}"
            )
    return None
