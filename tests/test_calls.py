"""Calls of several owners at once."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from rudderpipe.flusher import queue_calls
from rudderpipe.service.calls import Calls, Ended
from tests.spread import NO_ANSWER


def calls_of() -> Calls:
    """Return the calls of a flusher."""
    return Calls("test", queue_calls._note_no_thread)


def test_a_call_that_does_not_end_holds_up_no_other() -> None:
    """Each owner has a thread. What ends first is returned first."""
    calls, gate = calls_of(), threading.Event()
    calls.begin("slow", gate.wait)
    for number in range(3):
        calls.begin("quick", partial(int, number))
        assert calls.next(10) == Ended("quick", number)
    assert calls.next(0) is None

    gate.set()
    assert calls.next(10) == Ended("slow", True)
    calls.close()


def test_an_error_is_a_result() -> None:
    """The flusher's thread decides what it means."""
    calls = calls_of()

    def fail() -> None:
        raise NO_ANSWER

    calls.begin("one", fail)
    assert calls.next(10) == Ended("one", NO_ANSWER)
    calls.begin("one", lambda: 1)
    assert calls.next(10) == Ended("one", 1)
    calls.close()


def test_a_host_without_threads_makes_the_calls_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They run on the flusher's own thread."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    calls = calls_of()
    calls.begin("one", threading.get_ident)
    assert calls.next(0) == Ended("one", threading.get_ident())
    assert "a queue has no thread" in caplog.text
