"""One JSON object per line over a Unix socket (docs/protocol.md §1)."""

from __future__ import annotations

# The `socket` module costs 4 ms of every cold start; a stream needs only connect, recv and sendall.
import _socket
from _socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from json import JSONEncoder, loads

from causey._errors import CauseyException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

LINE_BYTES_MAX = 1024 * 1024
INT_BYTES = 4
# The kernel sends at most 253 descriptors at once.
_CONTROL_BYTES = CMSG_SPACE(253 * INT_BYTES)
_CLOSE_ON_EXEC: int = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)

_encode = JSONEncoder(separators=(",", ":")).encode


class LineTooLong(CauseyException):
    headline = "Report too large"


class Channel:
    def __init__(self, stream: socket) -> None:
        self._stream = stream
        self._received = b""

    @classmethod
    def connect(cls, path: str) -> Channel:
        stream = socket(AF_UNIX, SOCK_STREAM)
        stream.connect(path)
        return cls(stream)

    def fileno(self) -> int:
        return self._stream.fileno()

    def send(self, message: Message) -> None:
        line = f"{_encode(message)}\n".encode()
        if len(line) > LINE_BYTES_MAX:
            raise LineTooLong(
                f"the report of this attempt has {len(line)} bytes, the most is {LINE_BYTES_MAX}: "
                "keep many small values in one artifact, a dict or a list"
            )
        self._stream.sendall(line)

    def receive(self) -> Message | None:
        """The next message, None when the other side has closed."""
        while b"\n" not in self._received:
            chunk = self._stream.recv(65536)
            if not chunk:
                return None
            self._received += chunk
        return self.take()

    def take(self) -> Message | None:
        """The next message if it has been received already."""
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            return None
        self._received = rest
        message: Message = loads(line.decode())
        return message

    def fill(self, descriptors: list[int]) -> bool:
        """Receives once, for a caller who knows that something is there; False when the other side has closed. Adds the
        descriptors that came with it: they arrive with the first byte of the line they belong to, or before it."""
        chunk, control, _, _ = self._stream.recvmsg(65536, _CONTROL_BYTES, _CLOSE_ON_EXEC)
        for level, kind, content in control:
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                descriptors.extend(memoryview(content[: len(content) // INT_BYTES * INT_BYTES]).cast("i"))
        self._received += chunk
        return bool(chunk)

    def close(self) -> None:
        self._stream.close()
