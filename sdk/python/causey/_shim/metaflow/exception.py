"""Metaflow's exception names on Causey's classes."""

from causey._errors import CauseyException as MetaflowException
from causey._errors import ExceptionWrapper as MetaflowExceptionWrapper
from causey._errors import (
    InvalidDecoratorAttribute,
    MissingInMergeArtifactsException,
    TimeoutException,
    UnhandledInMergeArtifactsException,
)

__all__ = [
    "InvalidDecoratorAttribute",
    "MetaflowException",
    "MetaflowExceptionWrapper",
    "MissingInMergeArtifactsException",
    "TimeoutException",
    "UnhandledInMergeArtifactsException",
]
