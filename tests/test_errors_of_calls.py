"""Which error an application meets for which refusal: the table of docs/client.md, with each refusal provoked."""

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
    """A row of the table: the reason, the error, and which settings have a call raise it."""

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
    """Makes clients of a pipe that nobody else has."""
    settings = settings_of(tmp_path)
    pipe = {"pipe": settings.pipe, "runtime_dir": settings.runtime_dir, "autostart": False, "ring_bytes": 1 << 20}

    made: list[Client] = []  # a client that is collected would give up its slot

    def make(**more: Any) -> Client:
        made.append(Client(**{"write_key": "KEY", "data_plane_url": "http://127.0.0.1:9", **pipe, **more}))
        return made[-1]

    yield make
    memory.remove(location.own(settings).segment)


def ring_of(client: Client) -> Ring:
    """The ring, once an event is in it."""
    assert client.track("u", "first")
    ring = client._intake._own.producer.ring  # type: ignore[attr-defined]  # it is a Pipe
    assert isinstance(ring, Ring)
    return ring


def filled(make: Callable[..., Client], **more: Any) -> Client:
    """A client whose ring has no memory left."""
    client = make(**more)
    ring_of(client)
    while client._intake.append(b"x" * (at.BLOCK_BYTES - 2048)) is None:
        pass
    return client


def crowded(make: Callable[..., Client], **more: Any) -> Client:
    """A client whose ring has given all slots to living processes."""
    ring, me = ring_of(make()), identity.me()
    for slot in {*range(at.SLOTS)} - {*ring.slots_in_use()}:
        words = {at.S_PID: me.pid, at.S_START: me.start, at.S_NAMESPACE: me.namespace, at.S_IMAGE: claims._image.number}
        for word, value in words.items():
            ring.words[ring.layout.slot(slot) + word] = value
    return make(**more, linger_s=4)  # another setting, and so another producer


def locked_out(make: Callable[..., Client], **more: Any) -> Client:
    """A client whose ring's claim lock another process holds."""
    client = make(**more)
    ring_of(client).locks.lock = lambda *_arguments: False  # type: ignore[method-assign]  # a holder that is stopped
    return client


def after_the_end(make: Callable[..., Client], **more: Any) -> Client:
    """A client that was shut down."""
    client = make(**more)
    client.shutdown(0)
    return client


def full(make: Callable[..., Client], **more: Any) -> Client:
    """A client whose ring holds as many events as it may."""
    client = make(**more, max_internal_queue_size=1)
    ring_of(client)
    return client


ASKED: dict[str, dict[str, Any]] = {"drop": {}, "raise": {"when_full": "raise"}, "strict": {"strict": True}}
Provoke = tuple[Callable[..., Client], dict[str, Any]]
PLAIN = {"user_id": "u", "event": "e"}
LARGE = {**PLAIN, "properties": {"text": "x" * (at.BLOCK_BYTES - 2048)}}
PROVOKED: dict[str, Provoke] = {
    "invalid": (lambda make, **more: make(**more), {**PLAIN, "user_id": ""}),
    "too_large": (lambda make, **more: make(**more), {**PLAIN, "properties": {"text": "x" * at.EVENT_MAX_BYTES}}),
    "dropped": (lambda make, **more: make(**more, before_send=lambda _message: None), PLAIN),
    "full": (full, PLAIN),
    "no_block": (filled, LARGE),
    "busy": (locked_out, LARGE),
    "no_slot": (crowded, PLAIN),
    "ring": (lambda make, **more: make(**more, runtime_dir=str(PAGE)), PLAIN),
    "closed": (after_the_end, PLAIN),
    "failed": (
        lambda make, **more: make(**more, sync_mode=True, data_plane_url="https://127.0.0.1:9", ca_file=str(PAGE)),
        PLAIN,
    ),
}
"""For each reason, how to make a client that refuses, and the call that it refuses."""


def test_the_table_has_every_reason() -> None:
    """Each once, and no other."""
    assert sorted(row.reason for row in ROWS) == sorted({*at.REFUSALS, "failed"}) == sorted(PROVOKED)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_each_refusal_is_the_error_of_the_table(make: Callable[..., Client], row: Row, asked: str) -> None:
    """The callback gets it always, and the call raises it where the table says so; it is counted under its name."""
    provoke, arguments = PROVOKED[row.reason]
    client = provoke(make, **ASKED[asked])
    told: list[Exception | None] = []
    is_told = threading.Event()

    def callback(error: Exception | None) -> None:
        told.append(error)
        is_told.set()

    raised: Exception | None = None
    try:
        assert client.track(**arguments, callback=callback) is False
    except rudderpipe.RudderpipeError as error:
        raised = error

    assert (type(raised) if raised else None) == (row.error if asked in row.raised_with else None)
    assert is_told.wait(WAIT_S)
    assert [type(error) for error in told] == [row.error]
    assert client.counts()[row.reason] == 1
    if isinstance(told[0], EventRefused):
        assert told[0].reason == row.reason


def test_two_types_are_all_that_a_full_or_broken_ring_raises() -> None:
    """``except (RingError, EventTooLarge)`` is enough with ``when_full="raise"``."""
    raised = {row.error for row in ROWS if "raise" in row.raised_with}
    assert {error for error in raised if not issubclass(error, RingError)} == {rudderpipe.EventTooLarge}
    assert issubclass(rudderpipe.EventTooLarge, EventError)
