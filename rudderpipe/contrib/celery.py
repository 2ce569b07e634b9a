"""The integration with Celery: the clients of its processes, and the task in the context of each event."""

from __future__ import annotations

from typing import Any

from celery import signals

from rudderpipe.contrib import processes
from rudderpipe.messages import context

_pushed: dict[str, context.Pushed] = {}


def connect() -> None:
    """Connect to the signals of Celery's workers. Call it once, in the module that creates the application.

    Events arrive without this call. With it, a pool process claims its slot in the ring before its first task and
    releases the slot when it ends. A worker that is stopped waits for the ring, at most ``shutdown_timeout_s``.
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
