"""Imports a flow file without running its `__main__` part, and finds the flow class in it."""

from __future__ import annotations

import os
import sys

from causey._flow import FlowSpec, step
from causey._problem import NO_FLOW, NOT_LOADED, FlowProblem, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from types import ModuleType
    from typing import Any

_SHIM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_shim")


def load_flow(path: str, or_functions: bool = False) -> type[FlowSpec]:
    """With `or_functions` a file without a flow gives one made of its functions: steps of a flow that is defined elsewhere. Raises
    FlowProblem."""
    path = os.path.abspath(path)
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as problem:
        raise FlowProblem(Problem(NOT_LOADED, f"{path} cannot be read: {problem.strerror}", path)) from None
    # As in `python flow.py`, the file's folder comes first. Behind it the shim, so that `metaflow` means Causey even
    # where Metaflow is installed.
    sys.path[:0] = [os.path.dirname(path), _SHIM]
    module = _import(path, source)
    if or_functions and (functions := _functions(module)) and not _own_flows(module):
        return _flow_of(module, functions)
    return _flow_class(module, path, source)


def _import(path: str, source: bytes) -> ModuleType:
    name = os.path.splitext(os.path.basename(path))[0]
    if name in sys.modules or name in sys.stdlib_module_names:
        # A flow called statistics.py must not replace the module others import under that name.
        name = f"causey_flow_{name}"
    module = type(sys)(name)
    module.__file__ = path
    sys.modules[name] = module
    try:
        # Compiled here rather than imported: no __pycache__ beside the user's file, and none that is a second too old.
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException as problem:
        raise FlowProblem(_load_problem(problem, path)) from problem
    return module


def _load_problem(problem: BaseException, path: str) -> Problem:
    from causey._failure import describe_failure

    error = describe_failure(problem, None, os.path.dirname(path))
    text, _, hint = error["message"].partition("\nhint: ")
    if isinstance(problem, SyntaxError):
        text = problem.msg
    file = error["file"] and os.path.join(os.path.dirname(path), error["file"])
    hint = hint or getattr(problem, "hint", None) or ""
    return Problem(NOT_LOADED, f"{error['type']}: {text}", file or path, error["line"], hint=hint or None)


def _functions(module: ModuleType) -> dict[str, Any]:
    from types import FunctionType

    return {
        name: member
        for name, member in vars(module).items()
        if isinstance(member, FunctionType) and member.__module__ == module.__name__ and not name.startswith("_")
    }


def _flow_of(module: ModuleType, functions: dict[str, Any]) -> type[FlowSpec]:
    steps = {name: step(function) for name, function in functions.items()}
    return type(module.__name__, (FlowSpec,), {"__module__": module.__name__, **steps})


def _own_flows(module: ModuleType) -> list[type[FlowSpec]]:
    # A dict, because a second name for a class does not make a second flow.
    return list(
        dict.fromkeys(
            member
            for member in vars(module).values()
            if isinstance(member, type) and issubclass(member, FlowSpec) and member.__module__ == module.__name__
        )
    )


def _flow_class(module: ModuleType, path: str, source: bytes) -> type[FlowSpec]:
    own = _own_flows(module)
    if len(own) == 1:
        return own[0]
    import ast

    started = [getattr(module, name, None) for name in _called_in_main(ast.parse(source, path))]
    flows = [each for each in started if isinstance(each, type) and issubclass(each, FlowSpec)]
    if len(flows) == 1:
        return flows[0]
    if not own:
        problem = Problem(NO_FLOW, "the file defines no flow", path, hint="derive a class from FlowSpec")
    else:
        names = ", ".join(flow.__name__ for flow in own)
        problem = Problem(
            NO_FLOW,
            f"the file defines several flows: {names}",
            path,
            hint="instantiate the one to run at the end: if __name__ == '__main__': MyFlow()",
        )
    raise FlowProblem(problem)


def _called_in_main(tree: ast.Module) -> list[str]:
    import ast

    return [
        node.func.id
        for statement in tree.body
        if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
