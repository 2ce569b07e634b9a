"""The identity of a process: whether the process that had a pid is still the same process.

Nothing here reads the time of day, because a step of the clock must not make one living process look like another.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_INITIAL_TIME_NAMESPACE = 0xEFFFFFFA  # PROC_TIME_INIT_INO in linux/proc_ns.h
_UNIT = "ticks" if sys.platform == "linux" else "us"
"""The unit of ``Identity.start``. Addresses hold it, because a start in another unit cannot be compared."""


class Identity(NamedTuple):
    """A process, told apart from every other process on this host.

    ``pid`` has a meaning only in its ``namespace``.
    """

    pid: int
    start: int
    """When the process started: on Linux in ticks since boot, on macOS in microseconds as the kernel stored them.

    0 when the start is hidden, or stored in another unit. Then only the pid is compared.
    """
    namespace: int
    """The pid namespace and the time namespace; 0 where the system has none, or hides them."""

    @property
    def is_foreign(self) -> bool:
        """True if the process is in another namespace, where this process cannot see whether it lives."""
        return self.namespace != _namespace()

    def is_gone(self) -> bool:
        """Return True if the process has certainly ended (a zombie has ended); return False for a foreign one."""
        if self.is_foreign:
            return False
        if self.pid <= 0:  # no process has such a pid, and kill would read it as a process group
            return True
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):  # OverflowError: the number is no pid
            return True
        except OSError:
            pass  # the process belongs to another user
        found = _look(self.pid)
        if found is None:
            return False
        start, is_zombie = found
        return is_zombie or (start != self.start and 0 not in (start, self.start))


def me() -> Identity:
    """Return the identity of this process, as it is after a fork or an ``unshare``."""
    return of(os.getpid())


def of(pid: int) -> Identity:
    """Return the identity of the process that has this pid now."""
    found = _look(pid)
    return Identity(pid, found[0] if found else 0, _namespace())


def age_s(pid: int) -> float | None:
    """Return the seconds since a process started; None if its start is hidden."""
    found = _look(pid)
    if found is None:
        return None
    if sys.platform != "linux":
        return time.time() - found[0] / 1_000_000
    try:
        with open("/proc/uptime", "rb") as file:  # noqa: PTH123  # as below
            return float(file.read().split()[0]) - found[0] / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def _look(pid: int) -> tuple[int, bool] | None:
    """Return a process's start, and whether it is a zombie; None if they are hidden."""
    return _look_in_proc(pid) if sys.platform == "linux" else _look_elsewhere(pid)


def _look_in_proc(pid: int) -> tuple[int, bool] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # pathlib takes several times as long
            text = file.read()
        # The second field is the program's name, which may contain spaces and parentheses.
        fields = text[text.rindex(b")") + 1 :].split()
        return int(fields[19]), fields[0] in (b"Z", b"X", b"x")
    except (OSError, ValueError, IndexError):
        return None


def _look_elsewhere(pid: int) -> tuple[int, bool] | None:
    import psutil  # imported here because Linux does not need it

    try:
        process = psutil.Process(pid)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        own = process._proc  # type: ignore[attr-defined]  # noqa: SLF001  # the public create_time moves with the clock
        try:
            start_s = own.create_time(monotonic=True)
        except TypeError:  # psutil before 7.1, where create_time returns what the kernel stored
            start_s = own.create_time()
        return round(start_s * 1_000_000), is_zombie
    except (psutil.Error, ValueError, OverflowError):
        return None


def _namespace() -> int:
    """Return the inode of the pid namespace; the bits above its 32 stand for the time namespace.

    They are 0 in the host's time namespace. A time namespace moves the moment from which ticks since boot are counted.
    """
    try:
        pids = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  # in a hot loop of the flusher
    except OSError:
        return 0
    try:
        clocks = os.stat("/proc/self/ns/time").st_ino  # noqa: PTH116  # as above
    except OSError:  # Linux before 5.6
        clocks = _INITIAL_TIME_NAMESPACE
    return pids | ((clocks ^ _INITIAL_TIME_NAMESPACE) & 0xFFFFFFFF) << 32


def host() -> str:
    """Return the name of this host, without blanks."""
    return "".join(socket.gethostname().split()) or "localhost"


def address() -> str:
    """Return the address of this process: host, pid and what ``is_surely_dead`` compares, separated by one space."""
    pid, start, namespace = me()
    # The last part has five fields. Versions that write four, with a time of day, cannot read five, and treat the
    # holder as alive.
    return f"{host()} {pid} {_UNIT}/{start}/{namespace}/{os.getuid()}/{_boot()}"


def is_surely_dead(where: str) -> bool:
    """Return True if the process that had this address is gone.

    Return False for a process on another host or of another user, and for an address in an unknown form.
    """
    try:
        its_host, pid, rest = where.split(" ")
        unit, start, namespace, uid, boot = rest.split("/")
        identity = Identity(int(pid), int(start), int(namespace))
    except ValueError:
        return False
    ours = its_host == host() and boot == _boot() != "" and (unit, uid) == (_UNIT, str(os.getuid()))
    return ours and identity.start > 0 and identity.is_gone()


def _boot() -> str:
    """Return what identifies this boot of this machine; empty where the system does not say.

    On macOS it is a constant, because there a start in microseconds belongs to one process of one boot.
    """
    if sys.platform != "linux":
        return "-"
    try:
        return BOOT_ID.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
