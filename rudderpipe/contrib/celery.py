"""Celery: what a worker's processes do with their clients, and each task's name and id in the context of its events."""

from __future__ import annotations

from typing import Any

from celery import signals

from rudderpipe.contrib import processes
from rudderpipe.messages import context

_pushed: dict[str, context.Pushed] = {}


def connect() -> None:
    """Connect to the signals of Celery's workers, once, in the module that makes the application.

    Events arrive without it. With it, a pool process has its place in the ring before its first task, gives it back
    when it ends, and the worker waits for the ring, ``shutdown_timeout_s`` at the most, when it is stopped.
    """
    for signal, handler in (
        (signals.worker_process_init, _begin),
        (signals.worker_process_shutdown, _end),
        (signals.worker_shutdown, _wait),
        (signals.task_prerun, _enter),
        (signals.task_postrun, _leave),
    ):
        signal.connect(handler, weak=False, dispatch_uid=f"rudderpipe.{handler.__name__}")


def _begin(**_: Any) -> None:
    processes.begin()


def _end(**_: Any) -> None:
    processes.end()


def _wait(**_: Any) -> None:
    processes.wait_for_rings()


def _enter(task_id: str = "", task: Any = None, **_: Any) -> None:
    _pushed[task_id] = context.push({"task": {"name": getattr(task, "name", ""), "id": task_id}})


def _leave(task_id: str = "", **_: Any) -> None:
    pushed = _pushed.pop(task_id, None)
    if pushed is not None:
        context.pop(pushed)
