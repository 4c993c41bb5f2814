"""Names that flows import from metaflow.parameters."""

from causey._parameter import JSONType, JSONTypeClass, Parameter, ParameterContext

__all__ = ["JSONType", "JSONTypeClass", "Parameter", "ParameterContext"]
