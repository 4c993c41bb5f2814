"""Calls to the HTTP API of a Causey server (docs/protocol.md §3), with nothing but the standard library."""

from __future__ import annotations

import json
import os
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from causey._errors import ServerException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATE_FOLDER = ".causey"
TIMEOUT_SECONDS = 60.0


def state_folder() -> str | None:
    """The nearest .causey folder, from the working directory upward."""
    folder = os.getcwd()
    while True:
        candidate = os.path.join(folder, STATE_FOLDER)
        if os.path.isdir(candidate):
            return candidate
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _setting(variable: str, file: str) -> str | None:
    given = os.environ.get(variable)
    if given:
        return given
    folder = state_folder()
    if folder is None:
        return None
    try:
        with open(os.path.join(folder, file), encoding="utf-8") as opened:
            return opened.readline().strip() or None
    except FileNotFoundError:
        return None


class Client:
    """One server; every call is a connection of its own, so a client may be kept for as long as one likes."""

    def __init__(self) -> None:
        url = _setting("CAUSEY_URL", "url")
        if url is None:
            raise ServerException(
                "no Causey server is known here\n"
                "hint: start one with `causey dev` in this folder, or set CAUSEY_URL and CAUSEY_TOKEN"
            )
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerException(f"the server's address {url!r} is not an http or https URL")
        self.url = url.rstrip("/")
        self._parts = parts
        self._token = _setting("CAUSEY_TOKEN", "token")

    def open(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> HTTPResponse:
        """The answer with its body unread; raises ServerException for every status of 400 and above."""
        assert self._parts.hostname is not None
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(self._parts.hostname, self._parts.port, timeout=TIMEOUT_SECONDS)
        sent = dict(headers or {})
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, f"{self._parts.path.rstrip('/')}/v1{path}", body, sent)
            response = connection.getresponse()
        except (OSError, HTTPException) as problem:
            connection.close()
            raise ServerException(
                f"the Causey server at {self.url} does not answer: {problem or type(problem).__name__}\n"
                "hint: is `causey dev` running?"
            ) from problem
        if response.status >= 400:
            with response:
                raise _refusal(response.status, response.read())
        return response

    def get(self, path: str) -> Any:
        with self.open("GET", path) as response:
            return json.loads(response.read())

    def post(self, path: str, body: bytes, content_type: str) -> Any:
        with self.open("POST", path, body, {"Content-Type": content_type}) as response:
            return json.loads(response.read())


def _refusal(status: int, body: bytes) -> ServerException:
    try:
        problem = json.loads(body)
        text = problem.get("detail") or problem.get("title") or f"status {status}"
        hint, code = problem.get("hint"), problem.get("code")
    except (ValueError, AttributeError):
        text, hint, code = f"the Causey server answered with status {status}", None, None
    if status == 401 and hint is None:
        hint = "set CAUSEY_TOKEN, or run this below the project's .causey folder"
    return ServerException(f"{text}\nhint: {hint}" if hint else text, status, code)
