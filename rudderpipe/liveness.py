"""Whether the process that had this pid then is still that process."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

import psutil

# create_time is derived from the boot time, which moves when the clock is stepped.
_SAME_MS = 2_000


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Identity(NamedTuple):
    """What tells a process from every other one on this host; ``pid`` means something only in its ``namespace``."""

    pid: int
    start_ms: int
    """When it started, in milliseconds since 1970; 0 when that is hidden from us."""
    namespace: int
    """The inode of its pid namespace; 0 where the system has none, or hides it."""

    @property
    def is_foreign(self) -> bool:
        """True when it lives in another pid namespace, so that nothing here can tell whether it lives."""
        return self.namespace != _namespace()

    def is_gone(self) -> bool:
        """True when it is certain that the process is gone (a zombie is gone); False of a foreign one."""
        if self.is_foreign:
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            return abs(process.create_time() * 1000 - self.start_ms) >= _SAME_MS
        except (psutil.NoSuchProcess, ValueError, OverflowError):  # the last two: a number that is no pid
            return True
        except psutil.Error:
            return False


def me() -> Identity:
    """This process, as it is after a fork or an ``unshare``."""
    pid = os.getpid()
    try:
        start_ms = int(psutil.Process(pid).create_time() * 1000)
    except psutil.Error:
        start_ms = 0
    return Identity(pid, start_ms, _namespace())


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  # in a hot loop of the flusher
    except OSError:
        return 0


def address() -> str:
    """Where this process lives, as text without blanks: host, pid, and what ``is_surely_dead`` needs."""
    pid, start_ms, namespace = me()
    host = "".join(socket.gethostname().split()) or "localhost"
    return f"{host} {pid} {start_ms}/{namespace}/{os.getuid()}/{_boot()}"


def is_surely_dead(where: str) -> bool:
    """Whether the process that had this address is gone; False of anybody's on another host, or of another user."""
    try:
        host, pid, rest = where.split(" ")
        start_ms, namespace, uid, boot = rest.split("/")
        identity = Identity(int(pid), int(start_ms), int(namespace))
    except ValueError:
        return False
    ours = address().partition(" ")[0] == host and boot == _boot() != "" and uid == str(os.getuid())
    return ours and identity.start_ms > 0 and identity.is_gone()


def _boot() -> str:
    """What tells this run of this machine from every other; empty where the system does not say."""
    try:
        return BOOT_ID.read_text().strip() if BOOT_ID.exists() else str(int(psutil.boot_time()))
    except (OSError, psutil.Error):
        return ""


def memory_bytes(pid: int) -> int:
    """The resident memory of a process, 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
