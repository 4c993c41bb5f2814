"""Event names of metaflow.integrations; events go to the Causey server."""

from causey._argo_event import ArgoEvent

__all__ = ["ArgoEvent"]
