"""`metaflow` as existing flows import it, answered by Causey. The host and the check put this folder on sys.path."""

from causey import (
    FlowSpec,
    JSONType,
    Parameter,
    catch,
    concurrency,
    conda,
    conda_base,
    current,
    environment,
    grace,
    host,
    parallel,
    pypi,
    pypi_base,
    recursion,
    resources,
    retry,
    schedule,
    secrets,
    step,
    timeout,
    trigger,
)
from causey._refused import stand_in as _stand_in
from causey._trigger import MetaflowEvent, Trigger

__all__ = [
    "FlowSpec",
    "JSONType",
    "MetaflowEvent",
    "Parameter",
    "Trigger",
    "catch",
    "concurrency",
    "conda",
    "conda_base",
    "current",
    "environment",
    "grace",
    "host",
    "parallel",
    "pypi",
    "pypi_base",
    "recursion",
    "resources",
    "retry",
    "schedule",
    "secrets",
    "step",
    "timeout",
    "trigger",
]


def __getattr__(name: str) -> object:
    if name in ("exception", "integrations", "parameters"):
        from importlib import import_module

        return import_module(f"metaflow.{name}")
    return _stand_in(__name__, name)
