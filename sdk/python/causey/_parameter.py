"""Parameters: values given to a run from outside. Read-only inside steps."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from causey._flow import FlowSpec

# Names the run command of Metaflow keeps for itself; a flow that uses one would not run there either.
RESERVED_NAMES = frozenset(
    name
    for base in (
        "params with tag namespace obj tags decospecs run-id-file max-num-splits max-workers max-log-size "
        "user-namespace run-id task-id runner-attribute-file"
    ).split()
    for name in (base, base.replace("-", "_"))
)


class JSONTypeClass:
    """Type of a Parameter whose value is any JSON document."""

    name = "JSON"

    def __repr__(self) -> str:
        return "JSON"


JSONType = JSONTypeClass()


class ParameterContext:
    """What a callable default receives."""

    def __init__(self, flow_name: str, user_name: str, parameter_name: str) -> None:
        self.flow_name = flow_name
        self.user_name = user_name
        self.parameter_name = parameter_name


class Parameter:
    """A value of the run; assign it in the class body: `alpha = Parameter("alpha", default=0.5)`."""

    def __init__(
        self,
        name: str,
        default: Any = None,
        type: Any = None,
        help: str | None = None,
        required: bool | None = None,
        show_default: bool | None = None,
        separator: str | None = None,
    ) -> None:
        self.name = name
        self.default = default
        self.help = help
        # A default makes "required" meaningless, as in Metaflow.
        self.required = bool(required) and default is None
        self.show_default = show_default is not False
        self.separator = separator
        self.type = type if type is not None else self._inferred(default)
        self.attribute = name

    @staticmethod
    def _inferred(default: Any) -> Any:
        if default is None or callable(default):
            return str
        return JSONType if isinstance(default, (dict, list)) else type(default)

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, flow: FlowSpec | None, owner: type) -> Any:
        task = None if flow is None else flow._causey
        return self if task is None else task.parameter(self)

    def __set__(self, flow: FlowSpec, value: Any) -> None:
        raise AttributeError(
            f"Parameter '{self.attribute}' is read-only: parameters and class variables cannot be changed in steps"
        )

    def convert(self, value: Any) -> Any:
        """A JSON value of the run as the Python value the step sees; ValueError or TypeError if it does not fit."""
        if value is None or self.type is JSONType:
            return value
        if self.type is str:
            return value.split(self.separator) if self.separator and value else str(value)
        if self.type is bool and isinstance(value, str):
            lowered = value.lower()
            if lowered not in _BOOLEANS:
                raise ValueError(f"{value!r} is not a boolean")
            return _BOOLEANS[lowered]
        return self.type(value)

    # Linters see `self.param["key"]` on a JSONType parameter.
    def __getitem__(self, key: Any) -> Any:
        raise TypeError(f"parameter '{self.name}' has a value only inside a step")

    def __repr__(self) -> str:
        return f"Parameter({self.name!r})"


_BOOLEANS = {"1": True, "true": True, "t": True, "yes": True, "y": True, "on": True}
_BOOLEANS |= {"0": False, "false": False, "f": False, "no": False, "n": False, "off": False}
