"""The context of the current request, for the events that are sent during the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from rudderpipe.messages import validate

current: ContextVar[Mapping[str, Any] | None] = ContextVar("rudderpipe_context", default=None)
Pushed = Token[Mapping[str, Any] | None]


def push(context: Mapping[str, Any]) -> Pushed:
    """Add to the context of this task's (or thread's) events until ``pop``; raise ``EventError``."""
    added = dict(validate.mapping("context", context))
    return current.set({**(current.get() or {}), **added})


def pop(pushed: Pushed) -> None:
    """Restore the context from before ``push``; clear it in another task, where some servers end a request."""
    try:
        current.reset(pushed)
    except ValueError:
        current.set(None)


@contextmanager
def request_context(context: Mapping[str, Any]) -> Iterator[None]:
    """Add ``context`` to every event that is sent inside the block, such as ``{"ip": …, "page": {"path": …}}``.

    A key of the call or of an inner ``request_context`` takes precedence over the same key here. A key here takes
    precedence over the same key of the client's ``context``.
    """
    pushed = push(context)
    try:
        yield
    finally:
        pop(pushed)
