"""Whether the process that had this pid then is still that process.

Nothing here reads the time of day: a step of the clock must not make one living process look like another.
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
"""The unit of ``Identity.start``, written into addresses: a start in another unit cannot be compared."""


class Identity(NamedTuple):
    """What tells a process from every other one on this host; ``pid`` means something only in its ``namespace``."""

    pid: int
    start: int
    """When it started: on Linux in ticks since boot, on macOS in microseconds as the kernel stored them.

    0 when that is hidden, or stored in another unit: then only the pid is looked at.
    """
    namespace: int
    """The pid namespace and the time namespace; 0 where the system has none, or hides them."""

    @property
    def is_foreign(self) -> bool:
        """True when it lives in another namespace, so that nothing here can tell whether it lives."""
        return self.namespace != _namespace()

    def is_gone(self) -> bool:
        """True when it is certain that the process is gone (a zombie is gone); False of a foreign one."""
        if self.is_foreign:
            return False
        if self.pid <= 0:  # no process has such a number, and kill would take it for a group
            return True
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):  # the latter: a number that is no pid
            return True
        except OSError:
            pass  # of another user
        found = _look(self.pid)
        if found is None:
            return False
        start, is_zombie = found
        return is_zombie or (start != self.start and 0 not in (start, self.start))


def me() -> Identity:
    """This process, as it is after a fork or an ``unshare``."""
    return of(os.getpid())


def of(pid: int) -> Identity:
    """Return the process that has this pid now."""
    found = _look(pid)
    return Identity(pid, found[0] if found else 0, _namespace())


def age_s(pid: int) -> float | None:
    """Return how long ago a process started; None when that is hidden."""
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
    """A process's start, and whether it is a zombie; None when that is hidden."""
    return _look_in_proc(pid) if sys.platform == "linux" else _look_elsewhere(pid)


def _look_in_proc(pid: int) -> tuple[int, bool] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # pathlib takes several times as long
            text = file.read()
        # The second field is the program's name, which may hold blanks and parentheses.
        fields = text[text.rindex(b")") + 1 :].split()
        return int(fields[19]), fields[0] in (b"Z", b"X", b"x")
    except (OSError, ValueError, IndexError):
        return None


def _look_elsewhere(pid: int) -> tuple[int, bool] | None:
    import psutil  # only here: Linux needs none of it

    try:
        process = psutil.Process(pid)
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        own = process._proc  # type: ignore[attr-defined]  # noqa: SLF001  # the public create_time moves with the clock
        try:
            start_s = own.create_time(monotonic=True)
        except TypeError:  # psutil before 7.1, whose create_time is what the kernel stored
            start_s = own.create_time()
        return round(start_s * 1_000_000), is_zombie
    except (psutil.Error, ValueError, OverflowError):
        return None


def _namespace() -> int:
    """The inode of the pid namespace; above its 32 bits that of the time namespace, unless it is the host's.

    A time namespace moves what ticks since boot are counted from.
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


def address() -> str:
    """Where this process lives, as text without blanks: host, pid, and what ``is_surely_dead`` needs."""
    pid, start, namespace = me()
    host = "".join(socket.gethostname().split()) or "localhost"
    # Five fields: versions that wrote four, with a time of day, cannot read these, and take their holder for alive.
    return f"{host} {pid} {_UNIT}/{start}/{namespace}/{os.getuid()}/{_boot()}"


def is_surely_dead(where: str) -> bool:
    """Return True if the process that had this address is gone.

    False of any process on another host or of another user, and of an address in a form that is not known here.
    """
    try:
        host, pid, rest = where.split(" ")
        unit, start, namespace, uid, boot = rest.split("/")
        identity = Identity(int(pid), int(start), int(namespace))
    except ValueError:
        return False
    ours = address().partition(" ")[0] == host and boot == _boot() != "" and (unit, uid) == (_UNIT, str(os.getuid()))
    return ours and identity.start > 0 and identity.is_gone()


def _boot() -> str:
    """What tells this run of this machine from every other; empty where the system does not say.

    On macOS a constant: there a start in microseconds is that of one process of one run.
    """
    if sys.platform != "linux":
        return "-"
    try:
        return BOOT_ID.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
