"""Pages written by first steps are learnt from forked processes and copied ahead in later ones."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

import pytest

from causey._pages import PAGE_BYTES, PAGES_MAX, RUNNERS_ASKED, Pages, _ranges

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages a process has alone")


def in_child(work):
    """Runs `work` in a forked process and returns what it gave, as text."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, str(work()).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def memory(pages):
    """Private memory that has been written, and the number of its first page."""
    area = mmap.mmap(-1, pages * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(pages):
        area[page * PAGE_BYTES] = 1
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area)) // PAGE_BYTES


def attempt(pages, area, written):
    def run():
        after_first = pages.copy()
        for page in written:
            area[page * PAGE_BYTES] = 2
        if after_first is not None:
            after_first()
        return after_first is not None

    return in_child(run)


@pytest.fixture
def populated():
    return []


@pytest.fixture
def pages(populated):
    learner = Pages(lambda address, size: populated.append((address // PAGE_BYTES, size // PAGE_BYTES)))
    yield learner
    for end in (learner._ours, learner._theirs):
        end.close()


def test_pages_that_a_first_step_wrote_are_copied_in_later_runners(pages, populated):
    area, first = memory(211)
    for _ in range(RUNNERS_ASKED):
        assert attempt(pages, area, [3, 4, 100]) == "True"
        pages.learn()
    # Enough were asked: the next one only copies.
    assert attempt(pages, area, [7]) == "False"
    pages.copy()
    covered = {page for start, count in populated for page in range(start, start + count)}
    assert {first + 3, first + 4, first + 100} <= covered and first + 7 not in covered


def test_a_step_that_rewrites_data_teaches_nothing(pages, populated):
    area, _ = memory(PAGES_MAX + 77)
    assert attempt(pages, area, range(PAGES_MAX + 1)) == "True"
    pages.learn()
    pages.copy()
    assert populated == []


def test_ranges_join_neighbours():
    assert list(_ranges([1, 2, 3, 7, 9, 10])) == [(1, 4), (7, 8), (9, 11)]
    assert list(_ranges([])) == []
