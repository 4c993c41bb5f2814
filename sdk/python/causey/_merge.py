"""merge_artifacts: compares the content hashes of the inputs' artifacts and copies references."""

from __future__ import annotations

from causey._errors import CauseyException, MissingInMergeArtifactsException, UnhandledInMergeArtifactsException
from causey._task import is_internal, require_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from causey._flow import FlowSpec
    from causey._objects import Artifact
    from causey._task import Task


def merge_artifacts(flow: FlowSpec, inputs: Iterable[FlowSpec], exclude: list[str], include: list[str]) -> None:
    task = require_task(flow, "merge_artifacts")
    if not task.is_join:
        raise CauseyException(f"merge_artifacts can only be called in a join and step '{task.step}' is not a join")
    if exclude and include:
        raise CauseyException("`exclude` and `include` are mutually exclusive in merge_artifacts")
    merged: dict[str, Artifact] = {}
    conflicts: dict[str, None] = {}
    for parent in inputs:
        for name, artifact in require_task(parent, "merge_artifacts").artifacts.items():
            wanted = name in include if include else name not in exclude
            if not wanted or is_internal(name) or _is_set(flow, task, name):
                continue
            if merged.setdefault(name, artifact).hash != artifact.hash:
                conflicts[name] = None
    if conflicts:
        names = list(conflicts)
        raise UnhandledInMergeArtifactsException(
            f"step '{task.step}' cannot merge artifacts with conflicting values: {', '.join(names)}. "
            "Set them (self.<name> = …) before calling merge_artifacts, or exclude them.",
            names,
        )
    missing = [name for name in include if name not in merged and not _is_set(flow, task, name)]
    if missing:
        raise MissingInMergeArtifactsException(
            f"step '{task.step}' includes artifacts in merge_artifacts that no input has: {', '.join(missing)}", missing
        )
    task.artifacts.update(merged)


def _is_set(flow: FlowSpec, task: Task, name: str) -> bool:
    # Not hasattr, which would load the value.
    return name in flow.__dict__ or name in task.artifacts or hasattr(type(flow), name)
