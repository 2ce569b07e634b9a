"""The context of the request that is being answered, for events that are sent while it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from rudderpipe.messages import validate

current: ContextVar[Mapping[str, Any] | None] = ContextVar("rudderpipe_context", default=None)
Pushed = Token[Mapping[str, Any] | None]


def push(context: Mapping[str, Any]) -> Pushed:
    """Add to the context of this task's (or thread's) events; raises ``EventError``. ``pop`` takes it away again."""
    added = dict(validate.mapping("context", context))
    return current.set({**(current.get() or {}), **added})


def pop(pushed: Pushed) -> None:
    """Back to what was before ``push``; in another task, as some servers end a request, nothing is left to do."""
    try:
        current.reset(pushed)
    except ValueError:
        current.set(None)


@contextmanager
def request_context(context: Mapping[str, Any]) -> Iterator[None]:
    """Give every event that is sent within a context of its own, such as ``{"ip": …, "page": {"path": …}}``.

    A key that the call or an inner ``request_context`` gives takes precedence; keys of the client's ``context`` yield.
    """
    pushed = push(context)
    try:
        yield
    finally:
        pop(pushed)
