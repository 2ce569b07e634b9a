"""Whether the process that had this pid then is still that process."""

from __future__ import annotations

import psutil

# create_time is derived from the boot time, which moves when the clock is stepped.
_SAME_S = 2.0


def started_s(pid: int) -> float:
    """When the process started, in seconds since 1970; 0.0 when it is gone or hidden from us."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def is_alive(pid: int, start_s: float) -> bool:
    """True unless it is certain that the process ``pid`` that started at ``start_s`` is gone (a zombie is gone)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(float(process.create_time()) - start_s) < _SAME_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def memory_bytes(pid: int) -> int:
    """The resident memory of a process, 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
