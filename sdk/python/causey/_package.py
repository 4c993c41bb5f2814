"""Lists the files of a code package: the flow file's folder and what lies below it."""

from __future__ import annotations

import os

from causey._problem import PACKAGE, FlowProblem, Problem

SUFFIXES = (".py", ".R", ".RDS")
FILES_MAX = 10_000
BYTES_MAX = 256 * 1024 * 1024
_SKIPPED = frozenset({"__pycache__", "node_modules"})


def package_files(flow_file: str, more_suffixes: tuple[str, ...] = ()) -> list[list[str]]:
    """[absolute path, path in the package] of each file, sorted. The flow file is one of them whatever its suffix."""
    flow_file = os.path.abspath(flow_file)
    root = os.path.dirname(flow_file)
    files = {os.path.basename(flow_file): flow_file}
    size = 0
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if _wanted(folder, name))
        for name in names:
            if name.endswith(SUFFIXES + more_suffixes) and not name.startswith("."):
                path = os.path.join(folder, name)
                files[os.path.relpath(path, root)] = path
                size += os.path.getsize(path) if os.path.isfile(path) else 0
                if len(files) > FILES_MAX or size > BYTES_MAX:
                    raise FlowProblem(_too_large(root, flow_file))
    return [[path, inside.replace(os.sep, "/")] for inside, path in sorted(files.items()) if os.path.isfile(path)]


def _wanted(folder: str, name: str) -> bool:
    if name.startswith(".") or name in _SKIPPED:
        return False
    return not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))


def _too_large(root: str, flow_file: str) -> Problem:
    return Problem(
        PACKAGE,
        f"the code package is too large: {root} holds over {FILES_MAX} files or {BYTES_MAX // 2**20} MiB of source",
        flow_file,
        hint="move the flow file to a folder of its own",
    )
