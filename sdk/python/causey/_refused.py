"""Names of Metaflow that Causey does not offer yet: each is refused with a sentence that says what to do instead.

Decorators import fine and are refused by the check, which can name the step and the line; everything else is refused by
the import itself.
"""

from __future__ import annotations

from causey._decorators import mark_flow, mark_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LATER = "remove it for now"
_PLACE = "remove it; say what the step needs with @resources(cpu=…, memory=…, gpu=…, pool=…)"

STEP_DECORATORS = {
    "batch": _PLACE,
    "card": "remove it; keep what the card would show as an artifact",
    "checkpoint": "remove it; keep intermediate state in files of your own",
    "container": "remove it; run the worker in a container of this image, and send the step to its pool with @resources(pool=…)",
    "deepspeed": _LATER,
    "huggingface_hub": "remove it and download the model in the step",
    "kubernetes": _PLACE,
    "metaflow_ray": _LATER,
    "model": "remove it and use causey.models.publish(…) in the step",
    "mpi": _LATER,
    "pytorch_parallel": "use @parallel: MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE are set, so init_process_group() works",
    "ray_parallel": _LATER,
    "torchrun": _LATER,
}

FLOW_DECORATORS = {
    "exit_hook": "remove it; follow `dev.causey.run.finished.v1` with causey.events.follow",
    "project": "remove it; give the flow class a name of its own",
    "trigger_on_finish": "use @trigger(event='dev.causey.run.finished.v1')",
}

_CLIENT = "read results with `causey show` or the HTTP API"
OTHERS = {
    "Config": "use a Parameter or read the file in a step",
    "ConfigValue": "use a Parameter or read the file in a step",
    "DataArtifact": _CLIENT,
    "Deployer": "deploy with `causey deploy`",
    "Flow": _CLIENT,
    "FlowMutator": "apply the decorators to the steps themselves",
    "IncludeFile": "open the file in a step; files beside the flow travel with it, see --package-suffixes",
    "Metaflow": _CLIENT,
    "NBDeployer": "deploy with `causey deploy`",
    "NBRunner": "start runs with `causey run`",
    "Run": _CLIENT,
    "Runner": "start runs with `causey run`",
    "S3": "use boto3 in the step",
    "Step": _CLIENT,
    "StepMutator": "apply the decorators to the steps themselves",
    "Task": _CLIENT,
    "UserStepDecorator": "call a function in the step instead",
    "config_expr": "use a Parameter or read the file in a step",
    "get_metadata": _CLIENT,
    "get_namespace": _CLIENT,
    "get_secret": "read the secret in the step",
    "metadata": _CLIENT,
    "namespace": _CLIENT,
    "namespaced_event_name": "write the event's full name",
    "parallel_imap_unordered": "use foreach, or multiprocessing in the step",
    "parallel_map": "use foreach, or multiprocessing in the step",
    "profile": "use time.perf_counter in the step",
    "user_step_decorator": "call a function in the step instead",
}


def stand_in(module: str, name: str) -> Callable[..., Any]:
    """A decorator that the check will refuse, or the error that says why there is nothing under this name."""
    for known, mark in ((STEP_DECORATORS, mark_step), (FLOW_DECORATORS, mark_flow)):
        if name in known:
            return _refused(name, mark)
    if name in OTHERS:
        # ImportError, because `from module import name` would swallow the text of an AttributeError.
        raise ImportError(f"'{name}' of Metaflow is not offered by Causey yet\nhint: {OTHERS[name]}", name=module)
    raise AttributeError(f"module '{module}' has no attribute '{name}'", name=name)


def _refused(name: str, mark: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(decorated: Any = None, **attributes: Any) -> Any:
        if decorated is not None:
            return mark(name, decorated, {}, repeatable=True)
        return lambda later: mark(name, later, attributes, repeatable=True)

    decorate.__name__ = decorate.__qualname__ = name
    return decorate
