"""What @environment and @secrets say, as the `surroundings` of docs/protocol.md §4, and what can be wrong with it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from causey._graph import Node

VARIABLES_BYTES_MAX = 64 * 1024
SECRETS_MAX = 64
SOURCE_BYTES_MAX = 1024
_OWN_PREFIX = "CAUSEY_"
_PROVIDERS = ("env", "file", "command")
_FORMS = "name a place: 'env:NAME', 'file:/PATH' or 'command:NAME/ARGUMENT', each perhaps behind 'VARIABLE='"


def surroundings(decorators: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """None for a step that has none; `surroundings_problems` has found nothing wrong."""
    found: dict[str, Any] = {}
    if decorators.get("environment", {}).get("vars"):
        found["variables"] = {name: _text(value) for name, value in decorators["environment"]["vars"].items()}
    if decorators.get("secrets", {}).get("sources"):
        found["secrets"] = list(decorators["secrets"]["sources"])
    return found or None


def surroundings_problems(node: Node) -> Iterator[tuple[str, str, str | None]]:
    """Decorator, problem and hint."""
    decorators = node.marks.decorators
    variables: dict[str, Any] = {}
    if "environment" in decorators:
        variables = decorators["environment"]["vars"]
        problem = _variables_problem(variables)
        if problem:
            yield "environment", f"@environment of step '{node.name}': {problem}", "write vars={'NAME': 'value'}"
            variables = {}
    if "secrets" not in decorators:
        return
    attributes = decorators["secrets"]
    where = f"@secrets of step '{node.name}'"
    if attributes["role"] is not None:
        yield "secrets", f"{where}: role={attributes['role']!r} is of no use here", "the worker fetches secrets as itself"
    sources = attributes["sources"]
    if not isinstance(sources, (list, tuple)) or len(sources) > SECRETS_MAX:
        yield "secrets", f"{where}: sources={sources!r} is no list of up to {SECRETS_MAX}", _FORMS
        return
    taken = set(variables)
    for source in sources:
        problem = _source_problem(source)
        if problem:
            yield "secrets", f"{where}: {problem}", _FORMS
            continue
        name = _variable(source)
        if name in taken:
            yield "secrets", f"{where}: variable '{name}' is set twice", "give it another name: 'OTHER=…'"
        taken |= {name} if name else set()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _variables_problem(variables: Any) -> str | None:
    if not isinstance(variables, dict):
        return f"vars={variables!r} is no dict"
    size = 0
    for name, value in variables.items():
        problem = _name_problem(name)
        if problem:
            return problem
        if not isinstance(value, (str, int, float)) or "\0" in _text(value):
            return f"vars: {name}={value!r} is no text"
        size += len(name.encode()) + len(_text(value).encode())
    return f"vars take {size} bytes; at most {VARIABLES_BYTES_MAX} are accepted" if size > VARIABLES_BYTES_MAX else None


def _name_problem(name: Any) -> str | None:
    if not (isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= 256):
        return f"{name!r} is no name of a variable"
    return f"variable {name!r} is Causey's own" if name.startswith(_OWN_PREFIX) else None


def _source_problem(source: Any) -> str | None:
    if not isinstance(source, str) or not source.isprintable() or len(source.encode()) > SOURCE_BYTES_MAX:
        return f"{source!r} is no source of a secret"
    before, colon, reference = source.partition(":")
    name, equals, provider = before.rpartition("=")
    if not colon or provider not in _PROVIDERS:
        return f"{source!r} is no source of a secret"
    if equals and (problem := _name_problem(name)):
        return f"{source!r}: {problem}"
    if provider == "env":
        problem = _name_problem(reference)
        return f"{source!r}: {problem}" if problem else None
    if provider == "file":
        return None if reference.startswith("/") else f"{source!r}: the path of a file begins with /"
    command = reference.partition("/")[0]
    named = command.replace("-", "_").isascii() and command.replace("-", "_").replace("_", "a").isalnum()
    return None if named else f"{source!r}: a command is named by the worker's operator"


def _variable(source: str) -> str | None:
    """The variable a source sets, where it says so itself."""
    before, _, reference = source.partition(":")
    name, equals, provider = before.rpartition("=")
    return name if equals else reference if provider == "env" else None
