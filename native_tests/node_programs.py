"""The Node programs in ``native_tests/node``, which a test starts, calls and kills."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent / "node"
PATIENCE_S = 30.0
PREFIX, QUEUE = "{rudder}", "rudderEventsQueue"


class NodeError(Exception):
    """An error that a Node program returned instead of a result."""


class NodeProgram:
    """One process that reads commands as JSON lines, and writes numbered answers and events as JSON lines."""

    def __init__(self, name: str, socket: Path, log: Path, settings: dict[str, Any]) -> None:
        node = shutil.which("node")
        assert node, "node is missing: `make test` installs it"
        assert (HERE / "node_modules").exists(), "the Node packages are missing: `make test` installs them"
        self.name = name
        self._log = log
        self._numbers = itertools.count(1)
        self._lines: list[dict[str, Any]] = []
        self._ended = False
        self._said = threading.Condition()
        given = {"socket": str(socket), "prefix": PREFIX, "queue": QUEUE, **settings}
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [node, str(HERE / f"{name}.js"), json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self._lines.append(json.loads(line))
                self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()

    def wait_for(self, wanted: Callable[[list[dict[str, Any]]], Any]) -> Any:
        """Return the first true result of ``wanted``, which gets all lines so far."""
        deadline_s = time.monotonic() + PATIENCE_S
        with self._said:
            while not (result := wanted(self._lines)):
                left_s = deadline_s - time.monotonic()
                if self._ended or left_s <= 0:
                    how = "ended" if self._ended else f"did not write that within {PATIENCE_S} s"
                    raise AssertionError(f"{self.name} {how}: {self._lines[-5:]} {self._log.read_text()[-2000:]}")
                self._said.wait(left_s)
        return result

    def ready(self) -> dict[str, Any]:
        """Wait for the readiness line."""
        first: dict[str, Any] = self.wait_for(lambda lines: [line for line in lines if "ready" in line])[0]
        if not first["ready"]:
            raise NodeError(first["error"])
        return first

    def ask(self, **command: Any) -> Any:
        """Send a command and return its answer.

        Raise ``NodeError`` with the text of what JavaScript threw.
        """
        number = next(self._numbers)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"number": number, **command}).encode() + b"\n")
        self.process.stdin.flush()
        (line,) = self.wait_for(lambda lines: [line for line in lines if line.get("number") == number])
        if "error" in line:
            raise NodeError(line["error"])
        return line["answer"]

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of Bull's queue (``calls.js``)."""
        return self.ask(call=method, args=arguments)

    def job(self, job_id: str, method: str, *arguments: Any) -> Any:
        """Call a method of one of its jobs (``calls.js``)."""
        return self.ask(job=job_id, call=method, args=arguments)

    def events(self, name: str) -> list[list[Any]]:
        """Return the arguments of each event of that name so far."""
        with self._said:
            return [line["args"] for line in self._lines if line.get("event") == name]

    def heard(self, name: str, count: int) -> list[list[Any]]:
        """Wait until there are so many events of that name, and return their arguments."""
        self.wait_for(lambda lines: sum(line.get("event") == name for line in lines) >= count)
        return self.events(name)

    def kill(self) -> None:
        """Send SIGKILL, and check that the process died of it unless it had ended before."""
        self.process.kill()
        assert self.process.wait() in (-signal.SIGKILL, 0, 1)
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # the process was killed with a command unread


class NodePrograms:
    """The Node programs of one test, which use one Redis and are killed at the end."""

    def __init__(self, socket: Path, directory: Path) -> None:
        self._socket = socket
        self._directory = directory
        self._started: list[NodeProgram] = []

    def launch(self, name: str, **settings: Any) -> NodeProgram:
        """Start a program without waiting."""
        log = self._directory / f"node-{name}-{len(self._started)}.log"
        program = NodeProgram(name, self._socket, log, settings)
        self._started.append(program)
        return program

    def start(self, name: str, **settings: Any) -> NodeProgram:
        """Start a program and wait until it is ready."""
        program = self.launch(name, **settings)
        program.ready()
        return program

    def __enter__(self) -> NodePrograms:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for program in self._started:
            program.kill()
