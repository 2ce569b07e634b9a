"""A host without memory or descriptors: a call returns False with a reason, and raises nothing."""

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

ERRORS = [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RingUnavailable("x", "is not there")]
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
    """Yield a function that makes clients of one pipe with a name of its own."""
    settings = settings_of(tmp_path)

    def make(**more: Any) -> Client:
        own = {"pipe": settings.pipe, "runtime_dir": settings.runtime_dir, "autostart": False, **more}
        return Client("KEY", "http://127.0.0.1:9", **own)

    yield make
    memory.remove(location.own(settings).segment)


def break_pipe(monkeypatch: pytest.MonkeyPatch, client: Client, error: Exception, *names: str) -> None:
    """Make each of these methods of the client's pipe raise the error."""

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise error

    for name in names:
        monkeypatch.setattr(client._intake._own, name, fails)
    if "put" in names:
        client._intake.append = fails  # the fast path


@pytest.mark.parametrize("error", ERRORS[:2], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_returns_false_with_a_reason(
    make: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    error: Exception,
) -> None:
    """The refusal is counted and logged, without anything of the event. Only a client with ``strict`` raises."""
    client, strict = make(), make(strict=True)
    for one in (client, strict):
        break_pipe(monkeypatch, one, error, "put")

    assert [CALLS[name](client) for _ in range(3)] == [False] * 3

    assert client.counts() == {"accepted": 0, "ring": 3}
    reason = "out of memory" if isinstance(error, MemoryError) else "Too many open files"
    assert [message for message in caplog.messages if reason in message] == caplog.messages
    assert len(caplog.messages) == 1
    with pytest.raises(RingUnavailable, match=reason):
        CALLS[name](strict)


def test_a_callback_gets_the_hosts_error(make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """The value None would mean that the event is kept."""
    client, is_called = make(), threading.Event()
    errors: list[Exception | None] = []
    break_pipe(monkeypatch, client, MemoryError(), "put")

    def callback(error: Exception | None) -> None:
        errors.append(error)
        is_called.set()

    assert client.track("u", "e", callback=callback) is False
    assert is_called.wait(30)
    assert [type(error) for error in errors] == [RingUnavailable]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_flush_warm_up_and_shutdown_do_not_raise(
    make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The flush is not complete, and gives the reason without waiting."""
    # The shutdown would wait for a thread of callbacks that an earlier test left.
    monkeypatch.setattr("rudderpipe.client.callbacks", Callbacks())
    client = make()
    break_pipe(monkeypatch, client, error, "flush", "warm_up", "shut")

    result = client.flush(3_600)
    client.warm_up()
    client.shutdown(3_600)

    assert result == FlushResult(complete=False, reason=result.reason)
    assert result.reason


def test_a_call_without_memory_for_the_message_returns_false(
    make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call returns False also when there is no memory for logging that."""
    client = make()

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(client._intake.defaults, "usual", fails)
    monkeypatch.setattr(client._intake._own, "refuse", fails)

    assert client.page("u") is False
