"""A service manager that receives what a program of ours notifies."""

from __future__ import annotations

import socket
from pathlib import Path


class Manager:
    """The side of systemd in the protocol of ``Type=notify``."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(30)
        self._socket.bind(self.path)

    def receives(self, what: str) -> list[str]:
        """Wait for a message that has this line, and return all its lines."""
        while what not in (lines := self._socket.recv(4096).decode().split("\n")):
            pass
        return lines

    def close(self) -> None:
        self._socket.close()
