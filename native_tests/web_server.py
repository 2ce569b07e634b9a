"""The process ``rudderpipe web``, and a client that may send anything."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from native_tests.processes import Processes

TOKEN = "a token of more than thirty-two letters"
OURS = {"Sec-Fetch-Site": "same-origin"}
"""What a browser sends for a request of our own page."""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Reply(NamedTuple):
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class WebServer:
    """One process of the page."""

    def __init__(self, processes: Processes, directory: Path, *options: str, token: str | None = None) -> None:
        if token is not None:
            file = directory / "token"
            file.write_text(token)
            file.chmod(0o600)
            options = (*options, "--token-file", str(file))
        if "--listen" not in options:
            options = ("--listen", "127.0.0.1:0", *options)
        self._log = directory / "web.log"
        with self._log.open("wb") as log:
            self.process = processes.start("-m", "rudderpipe", "web", *options, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().decode()
        found = re.search(r"http://(?:127\.0\.0\.1|\[::1\]|0\.0\.0\.0):(\d+)/", self.said)
        assert found, (self.said, self.log)
        self.port = int(found[1])

    @property
    def log(self) -> str:
        """What it logged."""
        return self._log.read_text()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send one request; a body that is no text is sent as JSON. Underscores in a header's name are hyphens."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
            given = {"Content-Type": "application/json", **given}
        with contextlib.closing(connection):
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **headers: str) -> Reply:
        """Look at something."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """Do something, as a script that has the token, unless headers say who does."""
        return self.ask("POST", path, body, **(headers or BEARER))

    def log_in(self) -> dict[str, str]:
        """Return the headers of a browser after a login."""
        reply = self.ask("POST", "/login", {"token": TOKEN}, **OURS)
        assert reply.status == 204, reply
        return {"Cookie": reply.headers["set-cookie"].partition(";")[0], **OURS}

    def connect(self) -> socket.socket:
        """Return a connection."""
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def raw(self, data: bytes) -> bytes:
        """Send bytes and return everything until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))
