"""Pages that a first step writes in a forked runner: learnt from the first runners, copied ahead of need in the later ones.

The first write to a page after a fork copies it in a fault of 3 to 8 µs. The rehearsal meets most of them before a runner is ready; 30 to
50 are left for the step, because its own flow and objects lie on other pages. Runners of one template write much the
same pages, so what those of the first ones were is copied before `ready` (`MADV_POPULATE_WRITE`, Linux 5.14).
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair
from _struct import iter_unpack, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Range = tuple[int, int]

MADV_POPULATE_WRITE = 23
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Of an entry of /proc/self/pagemap: the page is there, and no other process has it (Documentation/admin-guide/mm/pagemap.rst).
PRESENT_ALONE = 1 << 63 | 1 << 56
# Different steps write different pages: so many runners are asked.
RUNNERS_ASKED = 4
# A step that writes more than this (1 MiB) changes data, not the interpreter's own pages; copying ahead is then no gain.
PAGES_MAX = 256
MESSAGE_BYTES_MAX = 16 * PAGES_MAX


class Pages:
    """Of a template. The two ends of its socket belong to the template and to the runners that are asked."""

    def __init__(self, populate: Callable[[int, int], object]) -> None:
        self._populate = populate
        self._written: set[int] = set()
        self._ranges: list[Range] = []
        self._told = 0
        self._ours, self._theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)

    def fileno(self) -> int:
        return self._ours.fileno()

    def learn(self) -> None:
        """Takes what a runner told; something must have come."""
        message = self._ours.recv(MESSAGE_BYTES_MAX)
        self._told += 1
        pages = {page for start, end in iter_unpack("=QQ", message) for page in range(start, end)}
        written = self._written | {page for start, end in _writable() for page in pages if start <= page < end}
        if len(written) <= PAGES_MAX:
            self._written = written
            self._ranges = list(_ranges(sorted(written)))

    def copy(self) -> Callable[[], None] | None:
        """In a forked runner that is ready: copies the pages. Returns what it shall call after its first attempt, if it is asked."""
        for start, end in self._ranges:
            self._populate(start * PAGE_BYTES, (end - start) * PAGE_BYTES)
        self._ours.close()
        if self._told < RUNNERS_ASKED:
            before = set(_written_alone())
            return lambda: self._tell(before)
        self._theirs.close()
        return None

    def leave(self) -> None:
        """In a forked runner that copies nothing: the sockets are not its own."""
        self._ours.close()
        self._theirs.close()

    def _tell(self, before: set[int]) -> None:
        ranges = list(_ranges(page for page in _written_alone() if page not in before))
        if sum(end - start for start, end in ranges) > PAGES_MAX:
            ranges = []
        try:
            self._theirs.send(b"".join(pack("=QQ", start, end) for start, end in ranges))
        except OSError:
            # The template is gone, and this runner is about to follow it.
            pass
        self._theirs.close()


def learner() -> Pages | None:
    """None where pages cannot be looked at or copied ahead."""
    if sys.platform != "linux":
        return None
    import ctypes

    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    return Pages(lambda address, size: madvise(address, size, MADV_POPULATE_WRITE))


def _writable() -> Iterator[Range]:
    """This process's private writable memory, in pages."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            addresses, permissions, _ = line.split(None, 2)
            if permissions == "rw-p":
                start, _, end = addresses.partition("-")
                yield int(start, 16) // PAGE_BYTES, int(end, 16) // PAGE_BYTES


def _written_alone() -> Iterator[int]:
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end in list(_writable()):
            entries = memoryview(os.pread(pagemap.fileno(), (end - start) * 8, start * 8)).cast("Q")
            yield from (start + place for place, entry in enumerate(entries) if entry & PRESENT_ALONE == PRESENT_ALONE)


def _ranges(pages: Iterable[int]) -> Iterator[Range]:
    """Ascending pages as ranges."""
    start = end = 0
    for page in pages:
        if page != end:
            if end > start:
                yield start, end
            start = page
        end = page + 1
    if end > start:
        yield start, end
