"""What @pypi, @pypi_base, @conda and @conda_base ask for, step by step: `causey` resolves it to a lock before anything runs."""

from __future__ import annotations

from causey._problem import DECORATOR, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from causey._flow import FlowSpec
    from causey._graph import Node

PYTHON_OLDEST = (3, 10)
_OPERATORS = ("~=", "==", "!=", "<=", ">=", "<", ">", "===")
_PYPI = ("pypi", "conda")
_BASES = ("pypi_base", "conda_base")
_FORM = "write packages={'pandas': '2.2.3'}, '' for any version"


def environments(flow: type[FlowSpec], graph: dict[str, Node], path: str) -> tuple[dict[str, Any], list[Problem]]:
    """`steps`: what each asks for; `bare`: those that want none; `warnings`. Empty when nobody asks for anything."""
    problems: list[Problem] = []
    warnings: list[str] = []
    base: dict[str, Any] | None = None
    for name, attributes in _base_marks(flow):
        problem = _problem(attributes)
        if problem:
            problems.append(Problem(DECORATOR, f"@{name} of flow '{flow.__name__}': {problem}", path, hint=_FORM))
        else:
            base = _merged(base, attributes)
            warnings += _conda_warning(name, f"flow '{flow.__name__}'")
    steps: dict[str, Any] = {}
    bare: list[str] = []
    for node in graph.values():
        asked: dict[str, Any] | None = base
        for name in _PYPI:
            wanted = node.marks.decorators.get(name)
            if wanted is None:
                continue
            problem = _problem(wanted)
            if problem:
                message = f"@{name} of step '{node.name}': {problem}"
                problems.append(Problem(DECORATOR, message, node.file, node.decorator_line(name), node.name, _FORM))
                continue
            asked = _merged(asked, wanted)
            warnings += _conda_warning(name, f"step '{node.name}'")
        if asked is None:
            continue
        if asked["disabled"]:
            bare.append(node.name)
        else:
            steps[node.name] = _request(asked)
    found = {"steps": steps, "bare": bare, "warnings": warnings}
    return ({name: value for name, value in found.items() if value}, problems)


def _base_marks(flow: type[FlowSpec]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of base classes come first: what is nearer to the flow counts."""
    for base in reversed(flow.__mro__):
        marks = base.__dict__.get("_causey_flow_marks")
        for name in _BASES:
            if marks is not None and name in marks.decorators:
                yield name, marks.decorators[name]


def _merged(base: dict[str, Any] | None, attributes: dict[str, Any]) -> dict[str, Any]:
    before = base or {"packages": {}, "python": None, "disabled": None}
    packages = {**before["packages"], **attributes.get("libraries", {}), **attributes["packages"]}
    own = {name: attributes[name] if attributes[name] is not None else before[name] for name in ("python", "disabled")}
    if attributes["packages"] and attributes["disabled"] is None:
        own["disabled"] = None
    return {"packages": packages, **own}


def _request(asked: dict[str, Any]) -> dict[str, Any]:
    requirements = [_requirement(name, version) for name, version in sorted(asked["packages"].items())]
    python = asked["python"]
    return {"requirements": requirements, **({"python": str(python)} if python is not None else {})}


def _requirement(name: str, version: Any) -> str:
    text = "" if version is None else str(version).strip()
    # As on the command line of conda.
    name = name.partition("::")[2] or name
    if not text:
        return name
    if text.startswith("@"):
        return f"{name} {text}"
    return f"{name}{text}" if text.startswith(_OPERATORS) else f"{name}=={text}"


def _problem(attributes: dict[str, Any]) -> str | None:
    for word in ("packages", "libraries"):
        packages = attributes.get(word, {})
        if not isinstance(packages, dict):
            return f"{word}={packages!r} is no dict"
        for name, version in packages.items():
            plain = isinstance(name, str) and name.strip() == name and name.isprintable() and name[:1].isalnum()
            if not plain or any(letter in name for letter in " ;@#\"'"):
                return f"{name!r} is no name of a package"
            if not (version is None or isinstance(version, (str, int, float))) or not str(version).isprintable():
                return f"{name}={version!r} is no version"
    python = attributes["python"]
    return None if python is None else _python_problem(python)


def _python_problem(python: Any) -> str | None:
    clauses = [clause.strip() for clause in str(python).split(",")]
    for clause in clauses:
        version = clause.lstrip("=<>!~ ").removesuffix(".*")
        if not version or not all(part.isdigit() for part in version.split(".")) or "." not in version:
            return f"python={python!r} is no version of Python such as '3.12' or '>=3.11,<3.14'"
        exact = not clause.startswith(("!", "<", ">", "~"))
        if (exact or clause.startswith("<")) and tuple(map(int, version.split(".")))[:2] < PYTHON_OLDEST:
            return f"python={python!r} is too old: steps run on 3.10 or newer"
    return None


def _conda_warning(name: str, of: str) -> list[str]:
    if not name.startswith("conda"):
        return []
    return [f"@{name} of {of}: packages are installed from the Python package index, as @{name.replace('conda', 'pypi')} does"]
