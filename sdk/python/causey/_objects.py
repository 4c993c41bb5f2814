"""Reads the object format (docs/protocol.md §2): the artifacts that finished attempts left in the artifact store.

It knows files and bytes, not flows. Objects never change, so whatever was read once may be kept.
"""

from __future__ import annotations

import mmap
import os
from json import loads

from causey._encoding import decode
from causey._errors import ArtifactStoreException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Reference = dict[str, str]

MAGIC = b"CAUSEY1\n"
FOOTER_BYTES = 24
# Up to here one read of the whole file is cheaper than several small ones.
WHOLE_FILE_BYTES_MAX = 256 * 1024
KEPT_OBJECTS_MAX = 64


class Store:
    """An artifact store's folder; `fetch` brings a missing file into it or raises."""

    def __init__(self, root: str, fetch: Callable[[str], None] | None = None) -> None:
        self.root = root
        self.fetch = fetch
        self._objects: dict[tuple[str, str], ObjectFile] = {}

    def object(self, reference: Reference) -> ObjectFile:
        identity = (reference["run"], reference["key"])
        found = self._objects.get(identity)
        if found is None:
            if len(self._objects) >= KEPT_OBJECTS_MAX:
                del self._objects[next(iter(self._objects))]
            found = self._objects[identity] = ObjectFile(self, reference)
        return found

    def open(self, path: str) -> int:
        try:
            return os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self.fetch is None:
                raise ArtifactStoreException(f"{path} is not in the artifact store {self.root}") from None
        self.fetch(path)
        return os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)

    def blob(self, digest: str) -> memoryview:
        """The whole blob, mapped copy-on-write: a consumer may write to its arrays, the store keeps its bytes."""
        descriptor = self.open(f"cas/{digest}")
        try:
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))
        finally:
            os.close(descriptor)


class ObjectFile:
    """One attempt's object."""

    __slots__ = ("_content", "_path", "_store", "artifacts", "manifest", "reference")

    def __init__(self, store: Store, reference: Reference) -> None:
        self._store = store
        self.reference = reference
        self._path = f"runs/{reference['run']}/{reference['key']}"
        descriptor = store.open(self._path)
        try:
            size = os.fstat(descriptor).st_size
            if size <= WHOLE_FILE_BYTES_MAX:
                content = os.read(descriptor, size)
                self._content: bytes | None = content
                manifest = content[slice(*self._manifest_place(content[-FOOTER_BYTES:], size))]
            else:
                self._content = None
                start, end = self._manifest_place(os.pread(descriptor, FOOTER_BYTES, size - FOOTER_BYTES), size)
                manifest = os.pread(descriptor, end - start, start)
        finally:
            os.close(descriptor)
        self.manifest: dict[str, Any] = loads(manifest.decode())
        if self.manifest.get("format") != 1:
            raise ArtifactStoreException(
                f"{self._path} has format {self.manifest.get('format')}, this SDK reads format 1"
            )
        self.artifacts = {name: Artifact(self, entry) for name, entry in self.manifest["artifacts"].items()}

    def _manifest_place(self, footer: bytes, size: int) -> tuple[int, int]:
        if len(footer) != FOOTER_BYTES or footer[16:] != MAGIC:
            raise ArtifactStoreException(f"{self._path} is not a Causey object: its footer is damaged")
        length = int.from_bytes(footer[:8], "little")
        offset = int.from_bytes(footer[8:16], "little")
        if offset + length + FOOTER_BYTES > size:
            raise ArtifactStoreException(f"{self._path} is damaged: its manifest lies outside of the file")
        return offset, offset + length

    def holder(self, index: int) -> ObjectFile:
        """The object at this place of the manifest's `objects`."""
        return self._store.object(self.manifest["objects"][index])

    def read(self, offset: int, length: int) -> bytes:
        if self._content is not None:
            return self._content[offset : offset + length]
        descriptor = self._store.open(self._path)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def blob(self, digest: str) -> memoryview:
        return self._store.blob(digest)


class Artifact:
    """A stored value: where its bytes are, without having read them."""

    __slots__ = ("_entry", "_origin")

    def __init__(self, origin: ObjectFile, entry: dict[str, Any]) -> None:
        self._origin = origin
        self._entry = entry

    @property
    def hash(self) -> str:
        return self._entry["hash"]  # type: ignore[no-any-return]

    @property
    def encoding(self) -> str:
        return self._entry["encoding"]  # type: ignore[no-any-return]

    @property
    def type(self) -> str:
        return self._entry["type"]  # type: ignore[no-any-return]

    @property
    def step(self) -> str:
        """The step that left it or passed it on."""
        return self._origin.manifest["task"]["step"]  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        return self._entry["bytes"]  # type: ignore[no-any-return]

    def raw(self) -> memoryview | bytes:
        entry = self._entry
        if "blob" in entry:
            return self._origin.blob(entry["blob"])
        holder = self._origin.holder(entry["object"]) if "object" in entry else self._origin
        return holder.read(entry["offset"], entry["bytes"])

    def load(self) -> Any:
        buffers = self._entry.get("buffers")
        content = self.raw()
        if buffers and isinstance(content, bytes):
            # Buffers become writable arrays; a slice of bytes would make them read-only.
            content = memoryview(bytearray(content))
        return decode(content, self._entry["encoding"], buffers)

    def inherited(self, references: References) -> dict[str, Any]:
        """The entry with which another object refers to this value."""
        entry = dict(self._entry)
        if "blob" not in entry:
            holder = self._origin
            reference = holder.manifest["objects"][entry["object"]] if "object" in entry else holder.reference
            entry["object"] = references.index(reference)
        return entry


class References:
    """The `objects` list of a report: every object that holds inherited bytes, once."""

    def __init__(self) -> None:
        self.objects: list[Reference] = []
        self._places: dict[tuple[str, str], int] = {}

    def index(self, reference: Reference) -> int:
        identity = (reference["run"], reference["key"])
        place = self._places.get(identity)
        if place is None:
            place = self._places[identity] = len(self.objects)
            self.objects.append({"run": reference["run"], "key": reference["key"], "digest": reference["digest"]})
        return place
