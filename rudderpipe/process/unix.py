"""What the ring and its processes need of the system. Windows lacks most of it."""

from __future__ import annotations

import os
import sys
from importlib import import_module

MODULES = ("fcntl", "resource", "pwd")
FUNCTIONS = ("fork", "getuid", "pwrite")


def lacking() -> str | None:
    """Return the first thing that this system lacks, such as ``module fcntl``; None if it has everything.

    Systems other than Linux also need Python's module for POSIX shared memory.
    """
    for name in MODULES if sys.platform == "linux" else (*MODULES, "_posixshmem"):
        try:
            import_module(name)
        except ImportError:
            return f"module {name}"
    return next((f"os.{name}" for name in FUNCTIONS if not hasattr(os, name)), None)
