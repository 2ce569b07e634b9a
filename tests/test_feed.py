"""The lines that a sender writes for its manager."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from rudderpipe.observe.metrics.values import Values, unpacked
from rudderpipe.sender import feed
from rudderpipe.sender.feed import Feed
from rudderpipe.service.histogram import Histogram

PATIENCE_S = 30.0


@pytest.fixture(name="pipe")
def _pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Yield the two ends of a pipe. Lines are written without a pause."""
    monkeypatch.setattr(feed, "EVERY_S", 0)
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)


def test_a_sender_writes_nothing_while_it_is_stalled(pipe: tuple[int, int]) -> None:
    """So the manager kills it. A line that cannot be made is left out."""
    reading, writing = pipe
    made = iter((b"first", None, b"second"))
    looks = iter((False, True, False, True, False))
    is_stalled, seen, done, ended = [False], [], threading.Event(), threading.Event()

    def look() -> bool:
        is_stalled[0] = next(looks, False)
        return is_stalled[0]

    def line() -> bytes:
        seen.append(is_stalled[0])
        found = next(made, b"last")
        if found is None:
            raise MemoryError
        if found == b"last":
            done.set()
        return found

    Feed(writing, line, look, ended.set).start()
    assert done.wait(PATIENCE_S)
    written = os.read(reading, 1000)
    assert not ended.is_set()
    os.close(reading)

    assert written.startswith(b"first\nsecond\n")
    assert seen[:4] == [False] * 4
    assert next(looks, None) is None
    assert ended.wait(PATIENCE_S)


def test_the_end_of_the_manager_is_the_end_of_the_sender(pipe: tuple[int, int]) -> None:
    """The manager may be killed at any moment, also while the sender waits for it to read."""
    reading, writing = pipe
    ended = threading.Event()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    Feed(writing, lambda: b"line", lambda: False, ended.set).start()
    assert not ended.is_set()

    os.close(reading)

    assert ended.wait(PATIENCE_S)


def test_values_reach_another_process_as_they_are() -> None:
    """The manager shows the numbers of its senders as a sender shows its own."""
    values = Values()
    values.put("delivered_events_total", 7, "{rudder-1}:rudderEventsQueue")
    histogram = Histogram((0.1, 1))
    histogram.note(0.5)
    values.put("attempt_seconds", histogram, "{rudder-1}:rudderEventsQueue")

    found = unpacked(values.packed())

    assert found.as_json() == values.as_json()
    with pytest.raises(ValueError, match="JSON"):
        unpacked(b"half a li")
