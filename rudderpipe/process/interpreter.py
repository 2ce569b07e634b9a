"""Which of a process's interpreters this is: mod_wsgi and uWSGI run every mounted application in one of its own."""

from __future__ import annotations

import sys
from importlib import import_module


def current() -> int:
    """Return the number of this interpreter within its process; the main one is 0."""
    try:
        if sys.version_info >= (3, 13):
            return int(import_module("_interpreters").get_current()[0])
        return int(import_module("_xxsubinterpreters").get_current())
    except ImportError:  # a Python that has no sub-interpreters
        return 0
