"""Python SDK of Causey: flows with Metaflow's documented surface.

Importing this package stays cheap (every `causey run` pays for it), so nothing here pulls in json, sockets or typing;
`models`, `events` and `flows` load when they are first touched.
"""

from __future__ import annotations

from causey._current import current
from causey._decorators import (
    approval,
    catch,
    concurrency,
    conda,
    conda_base,
    environment,
    grace,
    host,
    memoize,
    parallel,
    priority,
    pypi,
    pypi_base,
    recursion,
    resources,
    retry,
    schedule,
    secrets,
    timeout,
    trigger,
    wait_for,
)
from causey._errors import (
    CauseyException,
    FailureHandledByCatch,
    InvalidDecoratorAttribute,
    InvalidFlowException,
    InvalidNextException,
    MergeArtifactsException,
    MissingInMergeArtifactsException,
    ServerException,
    UnhandledInMergeArtifactsException,
    UnpicklableArtifactException,
)
from causey._flow import FlowSpec, step
from causey._parameter import JSONType, Parameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from causey import events, flows, models

__version__ = "0.1.0"

__all__ = [
    "CauseyException",
    "FailureHandledByCatch",
    "FlowSpec",
    "InvalidDecoratorAttribute",
    "InvalidFlowException",
    "InvalidNextException",
    "JSONType",
    "MergeArtifactsException",
    "MissingInMergeArtifactsException",
    "Parameter",
    "ServerException",
    "UnhandledInMergeArtifactsException",
    "UnpicklableArtifactException",
    "approval",
    "catch",
    "concurrency",
    "conda",
    "conda_base",
    "current",
    "environment",
    "events",
    "flows",
    "grace",
    "host",
    "memoize",
    "models",
    "parallel",
    "priority",
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
    "wait_for",
]


def __getattr__(name: str) -> object:
    if name in ("events", "flows", "models"):
        from importlib import import_module

        return import_module(f"causey.{name}")
    from causey._refused import stand_in

    return stand_in(__name__, name)
