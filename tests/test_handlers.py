"""Exceptions that an application's signal handler raises in the middle of a call, such as Celery's soft time limit."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import rudderpipe
from rudderpipe import Client
from rudderpipe.errors import RingUnavailable
from rudderpipe.process.handlers import let_through
from rudderpipe.ring import location, memory
from tests.fakes import settings_of

DESTINATION: dict[str, Any] = {"write_key": "KEY", "data_plane_url": "http://127.0.0.1:9"}
PACKAGE = str(Path(rudderpipe.__file__).parent) + os.sep


class SoftTimeLimitExceeded(Exception):
    """The exception of Celery, which is no subclass of one of its own."""


def handler(_signal: int, _frame: object) -> None:
    """Raise as Celery's handler does."""
    raise SoftTimeLimitExceeded


@contextmanager
def handled(own: Any = handler) -> Iterator[None]:
    """Handle the signal of an alarm with a handler of the application."""
    before = signal.signal(signal.SIGALRM, own)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def _drops_exceptions(frame: FrameType | None) -> bool:
    """Return whether Python itself would drop an exception here, in a destructor or when it closes a generator."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_flags & inspect.CO_GENERATOR:
            return True
        frame = frame.f_back
    return False


def interrupted(call: Callable[[], object], at: int) -> tuple[str, object]:
    """Raise the signal at the given moment of a call. Return the moment, empty if it did not come, and the result.

    The moments are those at which Python runs signal handlers: the begin of each function, and the end of each call.
    """
    moments = itertools.count()
    reached = ""

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal reached
        if not frame.f_code.co_filename.startswith(PACKAGE) or event == "c_call" or _drops_exceptions(frame):
            return
        if next(moments) == at:
            reached = f"{event} {getattr(argument, '__name__', '')} {frame.f_code.co_name}:{frame.f_lineno}"
            signal.raise_signal(signal.SIGALRM)

    gc.disable()  # so that no destructor of an earlier test's objects runs within the call
    sys.setprofile(note)
    try:
        result = call()
    except SoftTimeLimitExceeded:
        result = SoftTimeLimitExceeded
    finally:
        sys.setprofile(None)
        gc.enable()
    return reached, result


@pytest.fixture(name="client")
def _client(tmp_path: Path) -> Iterator[Client]:
    """Yield a client whose ring has no flusher."""
    settings = settings_of(tmp_path, **DESTINATION, autostart=False, ring_bytes=1 << 20)
    yield Client(settings=settings)
    memory.remove(location.own(settings).segment)


CALLS: dict[str, Callable[[Client], object]] = {
    "track": lambda client: client.track("u", "e", {"a": 1}),
    "nested": lambda client: client.track("u", "e", {"a": [{"b": ("c", {1, 2})}]}, message_id="m"),
    "large": lambda client: client.track("u", "e", {"a": "x" * 5000}),
    "page": lambda client: client.page("u", "Docs", "Queue"),
    "whole": lambda client: client.track({"userId": 5, "event": "e", "timestamp": "2026-01-02", "context": {"a": 1}}),
    "many": lambda client: client.send_many([{"type": "track", "userId": "u", "event": "e"}] * 3),
    "preview": lambda client: client.preview("track", "u", "e", {"a": 1}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_exception_at_any_line_of_a_call_leaves_the_call(client: Client, call: Callable[[Client], object]) -> None:
    """It came from the application and not from the event, so that no event is refused for it."""
    for _ in range(2):
        assert client.track("u", "e")
    swallowed = []
    with handled():
        for at in itertools.count():
            moment, result = interrupted(lambda: call(client), at)
            if not moment:
                break
            if result is not SoftTimeLimitExceeded:
                swallowed.append(moment)

    assert swallowed == []
    assert at > 10
    assert set(client.counts()) == {"accepted"}


class OfMethod:
    """A handler that is a method, and one that is an object."""

    def handle(self, _signal: int, _frame: object) -> None:
        raise SoftTimeLimitExceeded

    __call__ = handle


def of_any_arguments(*_arguments: object) -> None:
    """Raise as a handler that ignores its arguments."""
    raise SoftTimeLimitExceeded


def of_one_alarm(_signal: int, _frame: object) -> None:
    """Raise as a handler that removes itself first."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    raise SoftTimeLimitExceeded


def with_a_name(_name: str, number: int, frame: object) -> None:
    """Raise as a handler with an argument of its own."""
    handler(number, frame)


HANDLERS = {
    "function": handler,
    "method": OfMethod().handle,
    "object": OfMethod(),
    "any arguments": of_any_arguments,
    "one alarm": of_one_alarm,
    "partial": functools.partial(with_a_name, "limit"),
}


def slow(message: dict[str, Any]) -> dict[str, Any]:
    """Be a ``before_send`` in whose middle the alarm comes."""
    signal.raise_signal(signal.SIGALRM)
    return message


@pytest.mark.parametrize("own", HANDLERS.values(), ids=HANDLERS)
def test_an_alarm_in_before_send_leaves_the_call(own: Any) -> None:
    """A handler may be any callable."""
    client = Client(**DESTINATION, pipe="never", autostart=False, enable=False, before_send=slow)

    with handled(own), pytest.raises(SoftTimeLimitExceeded):
        client.track("u", "e")

    assert client.counts() == {}


def test_an_alarm_is_found_behind_the_error_that_it_became() -> None:
    """An ``OSError`` of a handler looks like one of the host at first."""

    def late(_signal: int, _frame: object) -> None:
        raise TimeoutError

    with handled(late):
        try:
            try:
                signal.raise_signal(signal.SIGALRM)
            except OSError as error:
                raise RingUnavailable("ring", "cannot be used") from error
        except RingUnavailable as error:
            with pytest.raises(TimeoutError):
                let_through(error)


def test_a_wrong_event_after_a_limit_is_refused() -> None:
    """A task that has caught its limit sends an event about it. Only what comes within the call leaves the call."""
    client = Client(**DESTINATION, pipe="never", autostart=False, enable=False)
    results = []
    with handled():
        try:
            signal.raise_signal(signal.SIGALRM)
        except SoftTimeLimitExceeded:
            results.append(client.track("u", "e", {"a": object()}))
            results.append(client.track("u", "e"))

    assert results == [False, True]
    assert client.counts() == {"accepted": 1, "invalid": 1}
