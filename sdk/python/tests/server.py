"""An HTTP server that plays the parts of Causey's API which the SDK calls."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "secret"


class Server(ThreadingHTTPServer):
    """`answers` maps "METHOD /path" to a function of the request that writes the response."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.requests = []
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def respond(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        path = self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.json(401, {"title": "Unauthorized", "status": 401, "detail": "the token is missing or wrong"})
        elif (answer := self.server.answers.get(f"{self.command} {path}")) is None:
            self.json(404, {"detail": f"there is no {path}", "status": 404, "code": "CSY-1004", "hint": "look again"})
        else:
            answer(self)

    do_GET = do_POST = respond

    def json(self, status, value):
        self.bytes(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def bytes(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass
