"""Hooks for a ``gunicorn.conf.py``: ``from rudderpipe.contrib.gunicorn import on_exit, post_fork, worker_exit``.

None is needed for an event to arrive. ``on_exit`` matters in a container, where the ring ends with the server.
"""

from __future__ import annotations

from typing import Any

from rudderpipe.client import Client, living
from rudderpipe.contrib import processes
from rudderpipe.errors import SettingsError


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001  # gunicorn's signature, as below
    """A preloaded application's worker takes its place in the ring now, and not within its first request."""
    processes.begin()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001  # gunicorn passes it
    """A worker gives its place in the ring back."""
    processes.end()


def on_exit(server: Any) -> None:  # noqa: ARG001  # gunicorn passes it
    """The master waits until the ring is empty, ``shutdown_timeout_s`` at the most.

    Without ``preload_app`` it has no client; then one of the ``RUDDERPIPE_*`` variables, if they make one.
    """
    own = None
    if not living():
        try:
            own = Client()
        except SettingsError:
            return
    processes.wait_for_rings()
    if own is not None:
        own.shutdown(timeout_s=0)
