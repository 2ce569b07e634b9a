"""Hooks for a ``gunicorn.conf.py``: ``from rudderpipe.contrib.gunicorn import on_exit, post_fork, worker_exit``.

The hooks are optional, because events arrive without them. ``on_exit`` matters in a container, where the ring ends
with the server.
"""

from __future__ import annotations

from typing import Any

from rudderpipe.client import Client, living
from rudderpipe.contrib import processes
from rudderpipe.errors import SettingsError


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001  # gunicorn passes both
    """Claim the worker's slot in the ring now, so that its first request does not pay for it.

    This has an effect only in a preloaded application.
    """
    processes.begin()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001  # gunicorn passes both
    """Release the worker's slot in the ring."""
    processes.end()


def on_exit(server: Any) -> None:  # noqa: ARG001  # gunicorn passes it
    """Wait in the master until the ring is empty, at most ``shutdown_timeout_s``.

    Without ``preload_app`` the master has no client. This hook then creates one from the ``RUDDERPIPE_*`` variables,
    and returns at once if they are not sufficient.
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
