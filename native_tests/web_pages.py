"""A pipe with its queue and its page: real processes, which a test brings into each trouble."""

from __future__ import annotations

import subprocess
import threading
import urllib.request
from pathlib import Path
from typing import Any

from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.testing.redis_server import RedisServer

TOKEN = "correct horse battery staple, and a few words more"


class WebPage:
    """The process ``rudderpipe web`` of a pipe, and what a test does to the pipe."""

    def __init__(self, processes: Processes, redis_server: RedisServer, directory: Path) -> None:
        self.processes = processes
        self.redis_server = redis_server
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._token_file = directory / "token"
        self._token_file.write_text(TOKEN)
        self._token_file.chmod(0o600)
        self._options: tuple[str, ...] = ()
        self._server: subprocess.Popen[bytes] | None = None
        self._load = Load()
        processes.explicit |= {"redis": redis_server.url, "flush_at": 20}

    @property
    def redis(self) -> Any:
        """Return a client of the pipe's Redis, for text."""
        return self.redis_server.text_client()

    def serve(self, *options: str, has_token: bool = False) -> None:
        """Start the page's process, and wait until it responds."""
        self._options = (*options, *(("--token-file", str(self._token_file)) if has_token else ()))
        self.serve_again()

    def serve_again(self) -> None:
        """Start it as before, on the same port."""
        command = ("-m", "rudderpipe", "web", "--listen", f"127.0.0.1:{self.port}", *self._options)
        self._server = self.processes.start(*command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(self._responds)

    def _responds(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "static/page.css", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def kill_server(self) -> None:
        """Kill the page's process."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def send_steadily(self) -> None:
        """Send some hundred events a second from now on, until the test ends."""
        self._load.start(self.processes.client())

    def send(self, number: int) -> int:
        """Send events, and return how many were accepted."""
        client = self.processes.client()
        return sum(client.track(f"u{each}", "Item Viewed", {"n": each}) for each in range(number))

    def run_flusher(self) -> subprocess.Popen[bytes]:
        """Start an operator's flusher. Use it with ``autostart`` False."""
        return self.processes.start("-m", "rudderpipe.flusher")

    def run_sender(self) -> subprocess.Popen[bytes]:
        """Start an operator's sender."""
        return self.processes.start("-m", "rudderpipe.sender")

    def end(self) -> None:
        """End the load; the processes are ended by their owner."""
        self._load.end()


class Load:
    """A thread that sends events."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, client: Any) -> None:
        """Send with this client until the end."""

        def send() -> None:
            number = 0
            while not self._ended.wait(0.02):
                for _ in range(10):
                    number += 1
                    client.track(f"u{number % 50}", "Item Viewed", {"n": number})

        self._thread = threading.Thread(target=send)
        self._thread.start()

    def end(self) -> None:
        """Stop sending."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
