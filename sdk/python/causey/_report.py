"""Collects what a step left on its flow instance into the `artifacts`, `objects` and `data` of a report."""

from __future__ import annotations

from binascii import b2a_base64
from json import dumps
from types import FunctionType, MethodType

from causey._encoding import ALIGNMENT, Encoded, encode
from causey._errors import UnpicklableArtifactException
from causey._objects import References
from causey._task import GANG_LEVEL, IMMUTABLE, ITEMS_PER_CHUNK, ITEMS_PREFIX, MODEL_PREFIX, SPLIT_STACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from causey._flow import FlowSpec
    from causey._objects import Artifact
    from causey._task import Task, Transition

INLINE_BYTES_MAX = 16 * 1024
OWN_FILE_BYTES_MIN = 1024 * 1024
COMPARED_BYTES = 256 * 1024


class Report:
    """With `typed` what has a form that all languages read is kept in it."""

    def __init__(self, folder: str, typed: bool = False) -> None:
        self._folder = folder
        self._encode = encode
        if typed:
            from causey._typed import encode_typed

            self._encode = encode_typed
        self._references = References()
        self._data = bytearray()
        self._own_files = 0
        self.artifacts: dict[str, dict[str, Any]] = {}

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"objects": self._references.objects, "artifacts": self.artifacts}
        if len(self._data) <= INLINE_BYTES_MAX:
            fields["data"] = b2a_base64(self._data, newline=False).decode()
        else:
            with open(f"{self._folder}/data", "wb") as file:
                file.write(self._data)
        return fields

    def collect(self, flow: FlowSpec, task: Task) -> None:
        """The values of the flow instance, then everything the parents left that the step did not touch."""
        flow_name = type(flow).__name__
        for name, value in flow.__dict__.items():
            if name == "_causey" or name.startswith("__") or isinstance(value, (FunctionType, MethodType)):
                continue
            if name == "name" and value == flow_name:
                continue
            self._add_value(name, value, task)
        self._inherit(task)
        if task.transition is not None and task.transition.items is not None:
            self._add_items(task, task.transition)
        elif task.transition is not None and task.transition.size is not None:
            self._add_stack(task, GANG_LEVEL)

    def add(self, name: str, encoded: Encoded) -> None:
        entry = {"bytes": encoded.size, "encoding": encoded.encoding, "type": encoded.type, "hash": encoded.hash}
        if encoded.size >= OWN_FILE_BYTES_MIN:
            entry.update(file=f"big-{self._own_files}", offset=0)
            with open(f"{self._folder}/big-{self._own_files}", "wb", buffering=0) as file:
                for chunk in encoded.chunks():
                    _write_all(file, chunk)
            self._own_files += 1
        else:
            self._data += bytes(-len(self._data) % ALIGNMENT)
            entry.update(file="data", offset=len(self._data))
            for chunk in encoded.chunks():
                self._data += chunk
        if len(encoded.parts) > 1:
            entry["buffers"] = encoded.layout
        self.artifacts[name] = entry

    def _add_value(self, name: str, value: Any, task: Task) -> None:
        inherited = task.artifacts.get(name)
        # A loaded value of an immutable type that is still the same object cannot have changed.
        if inherited and type(value) in IMMUTABLE and name in task.loaded and task.loaded[name] is value:
            self.artifacts[name] = inherited.inherited(self._references)
            return
        encoded = encode_artifact(name, value, self._encode)
        if inherited and (_same_content(encoded, inherited) or self._still_as_loaded(name, encoded, inherited, task)):
            self.artifacts[name] = inherited.inherited(self._references)
        else:
            self.add(name, encoded)

    def _still_as_loaded(self, name: str, encoded: Encoded, artifact: Artifact, task: Task) -> bool:
        """Equal values may have other bytes in another process: the order of a set follows the process's hash seed. Such a
        value would look changed, and conflict in a merge, only because it was read."""
        if name not in task.loaded or artifact.encoding != encoded.encoding or encoded.size >= OWN_FILE_BYTES_MIN:
            return False
        return self._encode(artifact.load()).hash == encoded.hash

    def _inherit(self, task: Task) -> None:
        splits_here = task.transition is not None and task.transition.count is not None
        for name, artifact in task.artifacts.items():
            if name in self.artifacts or name == "name" or name.startswith(MODEL_PREFIX):
                continue
            if (splits_here or not task.path) and (name == SPLIT_STACK or name.startswith(ITEMS_PREFIX)):
                continue
            self.artifacts[name] = artifact.inherited(self._references)

    def _add_items(self, task: Task, transition: Transition) -> None:
        items, variable = transition.items or [], transition.variable or ""
        entry = self.artifacts[variable]
        if len(items) <= ITEMS_PER_CHUNK and entry["type"] == "list":
            # The variable's own bytes are the only chunk.
            self.artifacts[f"{ITEMS_PREFIX}0"] = entry
        else:
            for start in range(0, len(items), ITEMS_PER_CHUNK):
                chunk = encode_artifact(variable, items[start : start + ITEMS_PER_CHUNK], self._encode)
                self.add(f"{ITEMS_PREFIX}{start // ITEMS_PER_CHUNK}", chunk)
        self._add_stack(task, [variable, entry["hash"]])

    def _add_stack(self, task: Task, level: list[str]) -> None:
        stack = [*task.split_variables(), level]
        self.add(SPLIT_STACK, Encoded([dumps(stack).encode()], "json", "list"))


def encode_artifact(name: str, value: Any, encode: Callable[[Any], Encoded] = encode) -> Encoded:
    try:
        return encode(value)
    except Exception as problem:
        raise UnpicklableArtifactException(
            f"artifact '{name}' of type {type(value).__name__} cannot be pickled: {problem}\n"
            f"hint: keep it in a local variable instead of self.{name}, or store what is needed to make it again"
        ) from problem


def _same_content(encoded: Encoded, artifact: Artifact) -> bool:
    if encoded.size != artifact.size or artifact.encoding != encoded.encoding:
        return False
    if encoded.size < OWN_FILE_BYTES_MIN:
        return encoded.hash == artifact.hash
    # Comparing large values is several times cheaper than hashing them; pieces that fit the cache cost no memory.
    stored = memoryview(artifact.raw())
    for (offset, length), part in zip(encoded.layout, encoded.parts):
        view = memoryview(part)
        for start in range(0, length, COMPARED_BYTES):
            end = min(start + COMPARED_BYTES, length)
            if bytes(view[start:end]) != bytes(stored[offset + start : offset + end]):
                return False
    return True


def _write_all(file: Any, chunk: Any) -> None:
    # A raw file may write less than asked, above 2 GiB it always does.
    view = memoryview(chunk)
    while view.nbytes:
        view = view[file.write(view) :]
