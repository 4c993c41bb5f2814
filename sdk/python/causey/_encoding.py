"""Values to bytes and back: pickle protocol 5 with out-of-band buffers, and the plain encodings models use."""

from __future__ import annotations

import pickle

try:
    # hashlib would load OpenSSL, which costs more than the rest of the SDK's imports together.
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

from causey._errors import ArtifactStoreException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ALIGNMENT = 64
# Smaller buffers are copied into the pickle stream: an entry of their own would cost more than the copy.
BUFFER_BYTES_MIN = 64 * 1024
HASH_BYTES = 16


def content_hash(content: Any) -> str:
    return blake2b(content, digest_size=HASH_BYTES).hexdigest()


class Encoded:
    """A value's bytes as a list of parts, each to be placed at a multiple of 64 behind the first."""

    __slots__ = ("_hash", "encoding", "parts", "type")

    def __init__(self, parts: list[Any], encoding: str, type: str) -> None:
        self.parts = parts
        self.encoding = encoding
        self.type = type
        self._hash: str | None = None

    @property
    def layout(self) -> list[list[int]]:
        """Offset and length of each part."""
        places, end = [], 0
        for part in self.parts:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            places.append([start, len(part)])
            end = start + len(part)
        return places

    @property
    def size(self) -> int:
        if len(self.parts) == 1:
            return len(self.parts[0])
        start, length = self.layout[-1]
        return start + length

    def chunks(self) -> Iterable[Any]:
        """The parts with the padding between them."""
        end = 0
        for part in self.parts:
            padding = -end % ALIGNMENT
            if padding:
                yield bytes(padding)
            yield part
            end += padding + len(part)

    @property
    def hash(self) -> str:
        if self._hash is None:
            if len(self.parts) == 1:
                self._hash = content_hash(self.parts[0])
            else:
                digest = blake2b(digest_size=HASH_BYTES)
                for chunk in self.chunks():
                    digest.update(chunk)
                self._hash = digest.hexdigest()
        return self._hash


def encode(value: Any) -> Encoded:
    """Pickles a value; large buffers (NumPy arrays, data frames) stay where they are until they are written."""
    buffers: list[memoryview] = []

    def keep_in_stream(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:
            return True
        if view.nbytes < BUFFER_BYTES_MIN:
            return True
        buffers.append(view)
        return False

    stream = pickle.dumps(value, 5, buffer_callback=keep_in_stream)
    return Encoded([stream, *buffers], "pickle5", type(value).__name__)


def encode_in_one_stream(value: Any) -> Encoded:
    return Encoded([pickle.dumps(value, 5)], "pickle5", type(value).__name__)


def decode(content: memoryview | bytes, encoding: str, buffers: list[list[int]] | None = None) -> Any:
    if encoding == "pickle5":
        if not buffers:
            return pickle.loads(content)
        view = memoryview(content)
        stream, *rest = (view[offset : offset + length] for offset, length in buffers)
        return pickle.loads(stream, buffers=rest)
    if encoding == "json":
        from json import loads

        return loads(bytes(content))
    if encoding == "text":
        return bytes(content).decode()
    if encoding == "bytes":
        return bytes(content)
    if encoding == "skops":
        from causey._formats import decode_skops

        return decode_skops(bytes(content), None)
    if encoding == "table":
        from causey._typed import decode_table

        return decode_table(bytes(content))
    raise ArtifactStoreException(f"artifacts in encoding '{encoding}' need a newer Causey SDK")
