"""Another host on this machine: a mount namespace with shared memory of its own, and a host name of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HOLDER = """
set -e
mount -t tmpfs tmpfs /dev/shm
echo "$1" > /proc/sys/kernel/hostname
echo ready
exec sleep infinity
"""


def why_not() -> str:
    """Return the reason why this machine cannot run the tests, or ""."""
    if os.geteuid() != 0:
        return "mount namespaces need root"
    return "" if shutil.which("unshare") and shutil.which("nsenter") else "there is no unshare or nsenter"


class SeparateHost:
    """The namespaces, which a process of their own keeps alive. Processes within have the ids that all others see."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = ["unshare", "--mount", "--uts", "sh", "-c", HOLDER, "sh", name]
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    @property
    def within(self) -> tuple[str, ...]:
        """Return the words that run a command on this host."""
        return ("nsenter", "--target", str(self._holder.pid), "--mount", "--uts", f"--wd={Path.cwd()}", "--")

    def end(self) -> None:
        """Give up the namespaces. Processes keep theirs until they end."""
        self._holder.kill()
        self._holder.communicate()
