"""The error for each refusal: the table of docs/client.md, with each refusal provoked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rudderpipe
from rudderpipe import Client, EventError, EventRefused, RingError
from rudderpipe.process import identity
from rudderpipe.ring import claims, location, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring
from tests.fakes import settings_of

PAGE = Path(__file__).parent.parent / "docs" / "client.md"
WAIT_S = 30.0
RAISES = {"never": set[str](), "`strict`": {"strict"}, "both": {"strict", "raise"}}


class Row:
    """A row of the table: the reason, the error, and the settings with which a call raises it."""

    def __init__(self, reason: str, error: str, raised_by: str) -> None:
        self.reason = reason
        self.error: type[Exception] = getattr(rudderpipe, error)
        self.raised_with = RAISES[raised_by]


ROWS = [
    Row(reason, error, raised_by)
    for reason, error, raised_by in re.findall(
        r"^\| `(\w+)` \| .* \| `(\w+)` \| (.*?) \|$", PAGE.read_text(), re.MULTILINE
    )
]


@pytest.fixture(name="make")
def _make(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Yield a function that makes clients of one pipe with a name of its own."""
    settings = settings_of(tmp_path)
    pipe = {"pipe": settings.pipe, "runtime_dir": settings.runtime_dir, "autostart": False, "ring_bytes": 1 << 20}

    made: list[Client] = []  # a collected client would give up its slot

    def make(**more: Any) -> Client:
        made.append(Client(**{"write_key": "KEY", "data_plane_url": "http://127.0.0.1:9", **pipe, **more}))
        return made[-1]

    yield make
    memory.remove(location.own(settings).segment)


def ring_of(client: Client) -> Ring:
    """Append an event, and return the client's ring."""
    assert client.track("u", "first")
    ring = client._intake._own.producer.ring  # type: ignore[attr-defined]  # the transport is a Pipe
    assert isinstance(ring, Ring)
    return ring


def without_blocks(make: Callable[..., Client], **more: Any) -> Client:
    """Return a client whose ring has no free block."""
    client = make(**more)
    ring_of(client)
    while client._intake.append(b"x" * (at.BLOCK_BYTES - 2048)) is None:
        pass
    return client


def without_a_slot(make: Callable[..., Client], **more: Any) -> Client:
    """Return a client whose ring has given all slots to living processes."""
    ring, me = ring_of(make()), identity.me()
    for slot in {*range(at.SLOTS)} - {*ring.slots_in_use()}:
        words = {at.S_PID: me.pid, at.S_START: me.start, at.S_NAMESPACE: me.namespace, at.S_IMAGE: claims._image.number}
        for word, value in words.items():
            ring.words[ring.layout.slot(slot) + word] = value
    return make(**more, linger_s=4)  # another setting makes another producer


def with_a_held_claim_lock(make: Callable[..., Client], **more: Any) -> Client:
    """Return a client whose ring's claim lock another process holds."""
    client = make(**more)
    ring_of(client).locks.lock = lambda *_arguments: False  # type: ignore[method-assign]  # the holder is stopped
    return client


def after_a_shutdown(make: Callable[..., Client], **more: Any) -> Client:
    """Return a client that was shut down."""
    client = make(**more)
    client.shutdown(0)
    return client


def with_a_full_ring(make: Callable[..., Client], **more: Any) -> Client:
    """Return a client whose ring holds as many events as its cap allows."""
    client = make(**more, max_internal_queue_size=1)
    ring_of(client)
    return client


OPTIONS: dict[str, dict[str, Any]] = {"drop": {}, "raise": {"when_full": "raise"}, "strict": {"strict": True}}
Provocation = tuple[Callable[..., Client], dict[str, Any]]
PLAIN = {"user_id": "u", "event": "e"}
LARGE = {**PLAIN, "properties": {"text": "x" * (at.BLOCK_BYTES - 2048)}}
PROVOKED: dict[str, Provocation] = {
    "invalid": (lambda make, **more: make(**more), {**PLAIN, "user_id": ""}),
    "too_large": (lambda make, **more: make(**more), {**PLAIN, "properties": {"text": "x" * at.EVENT_MAX_BYTES}}),
    "dropped": (lambda make, **more: make(**more, before_send=lambda _message: None), PLAIN),
    "full": (with_a_full_ring, PLAIN),
    "no_block": (without_blocks, LARGE),
    "busy": (with_a_held_claim_lock, LARGE),
    "no_slot": (without_a_slot, PLAIN),
    "ring": (lambda make, **more: make(**more, runtime_dir=str(PAGE)), PLAIN),
    "closed": (after_a_shutdown, PLAIN),
    "failed": (
        lambda make, **more: make(**more, sync_mode=True, data_plane_url="https://127.0.0.1:9", ca_file=str(PAGE)),
        PLAIN,
    ),
}
"""For each reason, how to make a client that refuses, and the call that it refuses."""


def test_the_table_has_every_reason() -> None:
    """Each reason is there once, and there is no other."""
    assert sorted(row.reason for row in ROWS) == sorted({*at.REFUSALS, "failed"}) == sorted(PROVOKED)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_each_refusal_has_the_error_of_the_table(make: Callable[..., Client], row: Row, options: str) -> None:
    """The callback always gets the error. The call raises it only where the table says so."""
    provoke, arguments = PROVOKED[row.reason]
    client = provoke(make, **OPTIONS[options])
    errors: list[Exception | None] = []
    is_called = threading.Event()

    def callback(error: Exception | None) -> None:
        errors.append(error)
        is_called.set()

    raised: Exception | None = None
    try:
        assert client.track(**arguments, callback=callback) is False
    except rudderpipe.RudderpipeError as error:
        raised = error

    assert (type(raised) if raised else None) == (row.error if options in row.raised_with else None)
    assert is_called.wait(WAIT_S)
    assert [type(error) for error in errors] == [row.error]
    assert client.counts()[row.reason] == 1
    if isinstance(errors[0], EventRefused):
        assert errors[0].reason == row.reason


def test_a_full_or_broken_ring_raises_only_two_types() -> None:
    """``except (RingError, EventTooLarge)`` is then enough with ``when_full="raise"``."""
    raised = {row.error for row in ROWS if "raise" in row.raised_with}
    assert {error for error in raised if not issubclass(error, RingError)} == {rudderpipe.EventTooLarge}
    assert issubclass(rudderpipe.EventTooLarge, EventError)
