"""Where a named subscriber stands in the stream of notifications, kept in a small file."""

from __future__ import annotations

import json
import os
from collections import deque

from causey._client import STATE_FOLDER, state_folder
from causey._errors import CauseyException

REMEMBERED_IDS_MAX = 1000


class Position:
    """Position and the ids already acted on. Without a name it lives only in memory."""

    def __init__(self, name: str | None) -> None:
        self.position: str | None = None
        self._ids: deque[str] = deque(maxlen=REMEMBERED_IDS_MAX)
        self._path = None if name is None else _path(name)
        if self._path is not None:
            self._read(self._path)

    def _read(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                stored = json.load(file)
        except FileNotFoundError:
            return
        self.position = stored["position"]
        self._ids.extend(stored["ids"])

    def knows(self, id: str) -> bool:
        return id in self._ids

    def advance(self, position: str | None, id: str | None = None) -> None:
        """After this returns a restart goes on behind the position."""
        self.position = position or self.position
        if id is not None:
            self._ids.append(id)
        if self._path is not None:
            self._write(self._path)

    def _write(self, path: str) -> None:
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"position": self.position, "ids": list(self._ids)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _path(name: str) -> str:
    if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or len(name) > 64:
        raise CauseyException(f"{name!r} is not a subscriber name: use up to 64 letters, digits, '_' and '-'")
    folder = os.path.join(state_folder() or os.path.abspath(STATE_FOLDER), "subscribers")
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f"{name}.json")
