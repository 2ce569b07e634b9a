"""The data plane and the proxies of a storm, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from native_tests.processes import wait_until


class Address(NamedTuple):
    """The address of a data plane in another process."""

    url: str


class Helpers:
    """Processes with one directory. They become calm when it has the file ``calm``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str) -> int:
        """Start the ``plane`` or the ``proxy``, and return its port."""
        command = [sys.executable, "-m", f"native_tests.storm_{name}", str(self.home), *arguments]
        with (self.home / f"{name}.errors").open("wb") as errors:
            self._started.append(subprocess.Popen(command, stderr=errors))
        port = self.home / f"{name}.port"
        wait_until(port.exists)
        return int(port.read_text())

    def errors(self) -> Iterator[str]:
        """Yield what a process has written to its standard error."""
        for path in self.home.glob("*.errors"):
            if text := path.read_text():
                yield f"{path.name}: {text[-2000:]}"

    def end(self) -> None:
        """Kill the processes."""
        for process in self._started:
            process.kill()
            process.wait()
