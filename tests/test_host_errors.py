"""What a host does to a call: memory or descriptors that are not there are a refusal with a reason, never an error."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rudderpipe import Client
from rudderpipe.errors import RingUnavailable
from rudderpipe.ring import location, memory
from rudderpipe.transports.callbacks import Callbacks
from rudderpipe.transports.flush import FlushResult
from tests.fakes import settings_of

TROUBLES = [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RingUnavailable("x", "is not there")]
CALLS: dict[str, Callable[[Client], Any]] = {
    "identify": lambda client: client.identify("u", {"a": 1}),
    "track": lambda client: client.track("u", "e", {"a": 1}),
    "track a mapping": lambda client: client.track({"userId": "u", "event": "e"}),
    "track with a callback": lambda client: client.track("u", "e", callback=lambda _error: None),
    "page": lambda client: client.page("u"),
    "screen": lambda client: client.screen("u"),
    "group": lambda client: client.group("u", "g"),
    "alias": lambda client: client.alias("a", "u"),
}


@pytest.fixture(name="make")
def _make(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Makes clients of a pipe that nobody else has."""
    settings = settings_of(tmp_path)

    def make(**more: Any) -> Client:
        own = {"pipe": settings.pipe, "runtime_dir": settings.runtime_dir, "autostart": False, **more}
        return Client("KEY", "http://127.0.0.1:9", **own)

    yield make
    memory.remove(location.own(settings).segment)


def troubled(monkeypatch: pytest.MonkeyPatch, client: Client, trouble: Exception, *names: str) -> None:
    """Have everything that a client asks of its pipe raise."""

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise trouble

    for name in names:
        monkeypatch.setattr(client._intake._own, name, fails)
    if "put" in names:
        client._intake.append = fails  # the fast path


@pytest.mark.parametrize("trouble", TROUBLES[:2], ids=lambda trouble: type(trouble).__name__)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_returns_false_with_a_reason(
    make: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    trouble: Exception,
) -> None:
    """Counted, and said in one line, which holds nothing of the event; raised only where that was asked for."""
    client, strict = make(), make(strict=True)
    for one in (client, strict):
        troubled(monkeypatch, one, trouble, "put")

    assert [CALLS[name](client) for _ in range(3)] == [False] * 3

    assert client.counts() == {"accepted": 0, "ring": 3}
    reason = "out of memory" if isinstance(trouble, MemoryError) else "Too many open files"
    assert [message for message in caplog.messages if reason in message] == caplog.messages
    assert len(caplog.messages) == 1
    with pytest.raises(RingUnavailable, match=reason):
        CALLS[name](strict)


def test_a_callback_is_told_of_the_hosts_error(make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """None would say that the event is kept."""
    client, is_told = make(), threading.Event()
    told: list[Exception | None] = []
    troubled(monkeypatch, client, MemoryError(), "put")

    def callback(error: Exception | None) -> None:
        told.append(error)
        is_told.set()

    assert client.track("u", "e", callback=callback) is False
    assert is_told.wait(30)
    assert [type(error) for error in told] == [RingUnavailable]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: type(trouble).__name__)
def test_no_other_call_raises(make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    """A flush is not complete, and says why, without waiting; the others do what they can."""
    # A thread for callbacks that an earlier test left would be waited for.
    monkeypatch.setattr("rudderpipe.client.callbacks", Callbacks())
    client = make()
    troubled(monkeypatch, client, trouble, "flush", "warm_up", "shut")

    result = client.flush(3_600)
    client.warm_up()
    client.shutdown(3_600)

    assert result == FlushResult(complete=False, reason=result.reason)
    assert result.reason


def test_memory_that_is_gone_while_a_message_is_made_is_a_refusal(
    make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when logging that has none either."""
    client = make()

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(client._intake._defaults, "encoded", fails)
    monkeypatch.setattr(client._intake._own, "refuse", fails)

    assert client.page("u") is False
