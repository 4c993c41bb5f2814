"""Reads a flow's graph from the source of its steps: who goes where, as the last statement of each step says.

It judges nothing; see `_check`. A step may come from a base class in another file, so each function is looked up in the
file it was compiled from.
"""

from __future__ import annotations

import ast
from functools import cache

from causey._decorators import Marks, step_marks
from causey._task import GANG_MEMBERS_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._flow import FlowSpec


class Transition:
    """self.next(…) as written; `problem` says what is wrong with it. A switch has a condition and cases, a gang num_parallel."""

    __slots__ = ("cases", "condition", "gang", "line", "problem", "targets", "variable")

    def __init__(
        self,
        targets: list[str],
        line: int,
        variable: str | None = None,
        problem: str | None = None,
        condition: str | None = None,
        cases: dict[str | int | float | bool, str] | None = None,
        gang: bool = False,
    ) -> None:
        self.gang = gang
        self.targets = targets
        self.line = line
        self.variable = variable
        self.problem = problem
        self.condition = condition
        self.cases = cases or {}


class Node:
    """One step of the graph."""

    def __init__(self, name: str, function: Any, definition: ast.FunctionDef, marks: Marks) -> None:
        self.name = name
        self.file: str = function.__code__.co_filename
        self.line = definition.lineno
        self.marks = marks
        self.doc = ast.get_docstring(definition) or ""
        self.arguments = len(definition.args.args)
        self.transition = _tail_transition(definition)
        self.other_transitions = _transition_lines(definition) - 1 if self.transition else _transition_lines(definition)
        self._decorator_lines = {_decorator_name(each): each.lineno for each in definition.decorator_list}

    @property
    def is_join(self) -> bool:
        return self.arguments > 1

    @property
    def targets(self) -> list[str]:
        return self.transition.targets if self.transition else []

    @property
    def switches(self) -> bool:
        return self.transition is not None and self.transition.condition is not None

    @property
    def recurs(self) -> bool:
        return self.switches and self.name in self.targets

    @property
    def forward_targets(self) -> list[str]:
        """The targets without the step itself, to which a case of its switch may lead back."""
        return [target for target in self.targets if not (self.switches and target == self.name)]

    @property
    def splits(self) -> bool:
        transition = self.transition
        if transition is None or transition.condition is not None:
            return False
        return transition.gang or transition.variable is not None or len(transition.targets) > 1

    @property
    def opens_gang(self) -> bool:
        return self.transition is not None and self.transition.gang

    def decorator_line(self, name: str) -> int:
        return self._decorator_lines.get(name, self.line)


def read_graph(flow: type[FlowSpec]) -> dict[str, Node]:
    nodes = {}
    for name, function in flow._causey_steps().items():
        marks = step_marks(function)
        assert marks is not None
        nodes[name] = Node(name, function, _definition(function), marks)
    return nodes


def declared_transition(function: Any) -> Transition | None:
    """What a step's last statement says, None for an end step."""
    return _tail_transition(_definition(function))


class NoSource(Exception):
    """The step's source cannot be read, so its transition is unknown."""


@cache
def _definitions(path: str) -> dict[int, ast.FunctionDef]:
    """Functions of a file by the line their code begins in, which is that of the first decorator."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except OSError as problem:
        raise NoSource(str(problem)) from None
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found[min([node.lineno, *(each.lineno for each in node.decorator_list)])] = node
    return found


def _definition(function: Any) -> ast.FunctionDef:
    code = function.__code__
    try:
        return _definitions(code.co_filename)[code.co_firstlineno]
    except KeyError:
        raise NoSource(f"{code.co_filename} changed while it was read") from None


def _decorator_name(decorator: ast.expr) -> str:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")


def _is_next(statement: ast.AST, owner: str) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Attribute)
        and statement.value.func.attr == "next"
        and isinstance(statement.value.func.value, ast.Name)
        and statement.value.func.value.id == owner
    )


def _owner(definition: ast.FunctionDef) -> str:
    return definition.args.args[0].arg if definition.args.args else "self"


def _transition_lines(definition: ast.FunctionDef) -> int:
    owner = _owner(definition)
    return sum(_is_next(node, owner) for node in ast.walk(definition))


def _tail_transition(definition: ast.FunctionDef) -> Transition | None:
    owner, tail = _owner(definition), definition.body[-1]
    if not _is_next(tail, owner):
        return None
    assert isinstance(tail, ast.Expr) and isinstance(tail.value, ast.Call)
    call = tail.value
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    if "condition" in options or any(isinstance(argument, ast.Dict) for argument in call.args):
        return _switch(call, options, owner, tail.lineno)
    targets = []
    problem = None
    for argument in call.args:
        target = _member(argument, owner)
        if target is not None:
            targets.append(target)
        else:
            problem = "a target must be written as self.<step>"
    foreach = options.pop("foreach", None)
    variable = foreach.value if isinstance(foreach, ast.Constant) and isinstance(foreach.value, str) else None
    size = options.pop("num_parallel", None)
    if size is not None and foreach is not None:
        problem = "foreach and num_parallel cannot be combined"
    elif size is not None and not _may_be_a_size(size):
        problem = f"num_parallel must be a whole number from 1 to {GANG_MEMBERS_MAX}, not {ast.unparse(size)}"
    elif size is not None and len(call.args) != 1:
        problem = "num_parallel needs exactly one step"
    elif options:
        problem = f"it has an unknown keyword argument '{next(iter(options))}'"
    elif foreach is not None and variable is None:
        problem = "foreach must be the name of an artifact in quotes"
    elif foreach is not None and len(call.args) != 1:
        problem = "foreach needs exactly one step"
    elif not call.args:
        problem = "it names no step"
    return Transition(targets, tail.lineno, variable, problem, gang=size is not None)


def _may_be_a_size(expression: ast.expr) -> bool:
    """Whether this can come to a number of members, as far as it is written out."""
    try:
        value = ast.literal_eval(expression)
    except ValueError:
        return True
    return type(value) is int and 1 <= value <= GANG_MEMBERS_MAX


def _member(expression: ast.expr, owner: str) -> str | None:
    """The name behind `self.`; None for any other expression."""
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name) and expression.value.id == owner:
        return expression.attr
    return None


def _switch(call: ast.Call, options: dict[str | None, ast.expr], owner: str, line: int) -> Transition:
    condition = options.pop("condition", None)
    variable = condition.value if isinstance(condition, ast.Constant) and isinstance(condition.value, str) else None
    cases: dict[str | int | float | bool, str] = {}
    problem = None
    if condition is None:
        problem = "a dictionary of cases needs condition='<artifact>'"
    elif not variable:
        problem = "condition must be the name of an artifact in quotes"
    elif options:
        problem = f"a switch cannot be combined with '{next(iter(options))}'"
    elif len(call.args) != 1 or not isinstance(call.args[0], ast.Dict):
        problem = "condition needs one dictionary that maps its values to steps"
    else:
        for key, value in zip(call.args[0].keys, call.args[0].values):
            target = _member(value, owner)
            if target is None:
                problem = "a target must be written as self.<step>"
            elif not isinstance(key, ast.Constant) or not isinstance(key.value, (str, int, float)):
                problem = "a case must be a text, a number or a boolean, written out"
            else:
                cases[key.value] = target
        if not problem and len(cases) < 2:
            problem = f"a switch needs at least two cases, this one has {len(cases)}"
    return Transition(list(dict.fromkeys(cases.values())), line, None, problem, variable, cases)
