"""Two network namespaces joined by a cable that a test can cut; the kernel's TCP in between is real."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

REDIS_ADDRESS, MAC = "10.213.77.2", "02:00:00:00:77:02"


def why_not() -> str:
    """Return the reason why this machine cannot run the tests, or ""."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    return "" if shutil.which("ip") else "there is no ip command"


class TwoHosts:
    """The two namespaces, ``here`` and ``there``; Redis listens there."""

    def __init__(self) -> None:
        self.here, self.there = f"rp-here-{os.getpid()}", f"rp-there-{os.getpid()}"
        self._ends = f"rpa{os.getpid()}", f"rpb{os.getpid()}"
        for place in (self.here, self.there):
            _ip("netns", "add", place)
        _ip("link", "add", self._ends[0], "type", "veth", "peer", "name", self._ends[1])
        for place, end, address in zip(
            (self.here, self.there), self._ends, ("10.213.77.1", REDIS_ADDRESS), strict=True
        ):
            _ip("link", "set", end, "netns", place)
            _ip("-n", place, "addr", "add", f"{address}/24", "dev", end)
            _ip("-n", place, "link", "set", end, "up")
            _ip("-n", place, "link", "set", "lo", "up")

        self.mend()
        _ip("-n", self.here, "neigh", "replace", REDIS_ADDRESS, "lladdr", MAC, "nud", "permanent", "dev", self._ends[0])

    def cut(self) -> None:
        """Drop every packet to the other side.

        Packets are lost there and not refused here, because TCP would notice a refusal and send again at once.
        """
        _ip("-n", self.there, "link", "set", self._ends[1], "address", "02:00:00:00:77:03")

    def mend(self) -> None:
        """Deliver every packet again."""
        _ip("-n", self.there, "link", "set", self._ends[1], "address", MAC)

    def program_there(self, directory: Path, program: str) -> str:
        """Return a program that runs the given one on the other side."""
        path = directory / "there"
        path.write_text(f'#!/bin/sh\nexec ip netns exec {self.there} {program} "$@"\n')
        path.chmod(0o700)
        return str(path)

    def connections(self) -> int:
        """Return the number of TCP connections to Redis, including closed ones that the kernel still serves."""
        said = subprocess.run(
            ["ip", "netns", "exec", self.here, "cat", "/proc/net/tcp"], capture_output=True, text=True, check=True
        )
        states = [line.split()[3] for line in said.stdout.splitlines()[1:]]
        return sum(state not in ("06", "07") for state in states)  # TIME_WAIT and CLOSE send nothing any more

    def end(self) -> None:
        """Remove both namespaces; processes keep theirs until they end."""
        for place in (self.here, self.there):
            _ip("netns", "del", place)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
