"""A mistake in a flow file, found before anything runs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOT_LOADED = "CSY-1111"
NO_FLOW = "CSY-1112"
GRAPH = "CSY-1101"
DECORATOR = "CSY-1113"
PARAMETER = "CSY-1114"
PACKAGE = "CSY-1104"


class Problem:
    def __init__(
        self,
        code: str,
        message: str,
        file: str | None = None,
        line: int | None = None,
        step: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.file = file
        self.line = line
        self.step = step
        self.hint = hint

    def fields(self) -> dict[str, Any]:
        return dict(vars(self))


class FlowProblem(Exception):
    """Carries the problems found so far to whoever reports them."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = list(problems)
