"""``send_many``: what becomes of each message, in which order, and when it is in the ring."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe import Client, EventError, EventRefused, RingFull, Scrubber, Sent, request_context
from rudderpipe.errors import EventTooLarge, RudderpipeError
from rudderpipe.process import fork
from rudderpipe.ring import location, memory
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.ring import Ring, find
from rudderpipe.testing import capture
from rudderpipe.transports.base import Encoded
from rudderpipe.transports.sending import CHUNK_BYTES, CHUNK_EVENTS, CHUNK_S, Sending
from tests.fakes import FakeClock, settings_of

Make = Callable[..., Client]
FULL = str(RingFull())
DROPPED = str(EventRefused("dropped"))
WRONG = "userId: is missing or blank, and so is anonymousId; one of them must be given"


@pytest.fixture(name="make")
def _make(tmp_path: Path) -> Iterator[Make]:
    """Yield a function that makes clients of one pipe, whose ring no flusher drains."""
    base = settings_of(tmp_path)
    made: list[Client] = []

    def make(**more: Any) -> Client:
        own = {"pipe": base.pipe, "runtime_dir": str(tmp_path), "autostart": False, "ring_bytes": 8 << 20}
        made.append(Client("KEY", "http://127.0.0.1:9", **{**own, **more}))
        return made[-1]

    yield make
    for client in made:
        client.shutdown(0)
    memory.remove(location.own(base).segment)


def ring_of(client: Client) -> Ring:
    """Return the ring of a client's pipe."""
    ring = find(client.settings.for_processes())
    assert ring is not None
    return ring


def arrived(client: Client) -> list[dict[str, Any]]:
    """Take all messages out of the ring, and return them."""
    consumer = Consumer(ring_of(client))
    consumer.refresh(whole=True)
    found: list[dict[str, Any]] = []
    while batch := consumer.next_batch(1000, 4_000_000):
        found += msgspec.json.decode(b"[%b]" % bytes(batch.data))
        consumer.release([batch])
    consumer.tidy()
    return found


def message(number: int, **more: Any) -> dict[str, Any]:
    """Return the message of a track."""
    return {"type": "track", "userId": f"u{number}", "event": "Item Viewed", **more}


def numbers(found: Sequence[dict[str, Any]]) -> list[int]:
    """Return the numbers of the messages in their order."""
    return [int(each["userId"][1:]) for each in found]


def test_messages_arrive_in_their_order(make: Make) -> None:
    """They are of several chunks, blocks and grants, and one of them takes blocks of its own."""
    client = make()
    messages = [message(number, properties={"text": "x" * (number % 900)}) for number in range(1000)]
    messages[500]["properties"] = {"text": "x" * 150_000}

    sent = client.send_many(iter(messages))

    assert sent == Sent(1000, {})
    assert sent
    assert client.counts() == {"accepted": 1000}
    found = arrived(client)
    assert numbers(found) == list(range(1000))
    assert [each["properties"] for each in found] == [each["properties"] for each in messages]


def test_each_type_makes_the_message_of_its_call(make: Make) -> None:
    """The messages are those of the six calls, apart from message id and time."""
    client, own = make(), {"messageId": "m", "originalTimestamp": "2026-01-02T03:04:05Z"}
    messages: list[dict[str, Any]] = [
        {"type": "identify", "userId": "u", "traits": {"plan": "free"}, **own},
        {"type": "track", "anonymousId": "a", "event": "e", "properties": {"n": 1}, **own},
        {"type": "page", "userId": "u", "category": "c", "name": "n", **own},
        {"type": "screen", "userId": "u", "name": "n", **own},
        {"type": "group", "userId": "u", "groupId": "g", **own},
        {"type": "alias", "userId": "u", "previousId": "p", **own},
    ]

    assert client.send_many(messages) == Sent(6)
    many = arrived(client)
    assert all(getattr(client, each["type"])(each) for each in messages)

    assert many == arrived(client)
    assert [each["type"] for each in many] == [each["type"] for each in messages]


def test_a_wrong_message_is_refused_by_its_index(make: Make) -> None:
    """Its neighbours are accepted. The reason is the text of the error that a call has."""
    client = make()
    messages: list[Any] = [message(0), "text", message(2), {"userId": "u", "event": "e"}, {"type": "tarck"}, message(5)]
    messages += [{"type": ["track"]}, {"type": "track", "event": "e"}, message(8, properties={"a": [object()]})]

    sent = client.send_many(messages)

    kinds = "type: must be one of alias, group, identify, page, screen, track"
    assert sent.accepted == 3
    assert not sent
    assert sent.refused == {
        1: "message: must be a mapping, not str",
        3: kinds,
        4: kinds,
        6: kinds,
        7: WRONG,
        8: "properties.a[0]: is of type object, which JSON cannot hold",
    }
    assert client.counts() == {"accepted": 3, "invalid": 6}
    assert numbers(arrived(client)) == [0, 2, 5]


@pytest.mark.parametrize("more", [{}, {"messageId": "m"}])
@pytest.mark.parametrize("number_of_messages", [0, 1])
def test_a_child_that_the_iterable_forks_sends_only_its_own_messages(
    make: Make, more: dict[str, Any], number_of_messages: int
) -> None:
    """The chunk at the moment of the fork is the parent's, which sends it too."""
    client = make()
    assert client.send_many([message(0)])

    def forking() -> Iterator[dict[str, Any]]:
        yield message(1)
        yield message(2)
        fork.PAGE[0] = 0  # what a child finds
        for number in range(number_of_messages):
            yield message(3 + number, **more)

    assert client.send_many(forking()) == Sent(number_of_messages, {})

    assert numbers(arrived(client)) == [0, 3][: 1 + number_of_messages]


def test_a_full_ring_refuses_the_rest(make: Make) -> None:
    """The cap is reached exactly, in the middle of a chunk."""
    client = make(max_internal_queue_size=100)

    sent = client.send_many(map(message, range(103)))

    assert sent == Sent(100, {100: FULL, 101: FULL, 102: FULL})
    assert client.counts() == {"accepted": 100, "full": 3}
    assert numbers(arrived(client)) == list(range(100))
    assert client.send_many([message(0)])


def test_a_wrong_message_moves_no_index(make: Make) -> None:
    """The ring refuses events behind it, which keep their own indexes."""
    client = make(max_internal_queue_size=2)

    sent = client.send_many([message(0), {"type": "track"}, message(2), message(3), {"type": "track"}, message(5)])

    assert sent == Sent(2, {1: WRONG, 3: FULL, 4: WRONG, 5: FULL})


def test_when_full_raise_stops_at_the_first(make: Make) -> None:
    """The error has what became of the messages, also after it was pickled."""
    client = make(max_internal_queue_size=100, when_full="raise")
    asked: list[int] = []

    with pytest.raises(RingFull) as caught:
        client.send_many(asked.append(number) or message(number) for number in range(1000))  # type: ignore[func-returns-value]  # it returns None

    assert caught.value.sent == pickle.loads(pickle.dumps(caught.value)).sent == Sent(100, {100: FULL})
    assert client.counts() == {"accepted": 100, "full": 1}
    assert len(asked) <= 100 + CHUNK_EVENTS
    assert RingFull().sent is None


@pytest.mark.parametrize("works", [True, False])
def test_when_full_block_waits_as_a_call_does(make: Make, works: bool) -> None:
    """Each event waits until the flusher has made room, or is refused after ``block_timeout_ms``."""
    client = make(max_internal_queue_size=2, when_full="block", block_timeout_ms=5_000)
    found: list[dict[str, Any]] = []
    clock = FakeClock()

    def sleep(seconds: float) -> None:
        clock.now_s += seconds
        if works:
            found.extend(arrived(client))

    began_s = clock.now_s
    clock.sleep = sleep  # type: ignore[method-assign]  # the flusher may work meanwhile
    client._intake._own._clock = clock  # type: ignore[attr-defined]  # the pipe's

    sent = client.send_many(map(message, range(7)))

    assert sent == (Sent(7) if works else Sent(2, dict.fromkeys(range(2, 7), FULL)))
    assert (clock.now_s - began_s >= 5 * 5) is not works
    assert numbers(found + arrived(client)) == list(range(sent.accepted))


def test_strict_raises_at_the_first_wrong_message(make: Make) -> None:
    """The messages before it are in the ring, those after it are not."""
    client = make(strict=True)

    with pytest.raises(EventError) as caught:
        client.send_many([message(0), message(1), {"type": "track", "event": "e"}, message(3)])

    assert caught.value.sent == Sent(2, {2: WRONG})
    assert numbers(arrived(client)) == [0, 1]


@pytest.mark.parametrize("settings", [{"strict": True}, {"when_full": "raise"}, {}])
def test_an_event_that_is_too_large_is_refused_as_in_a_call(make: Make, settings: dict[str, Any]) -> None:
    """Both switches raise for it."""
    client = make(**settings)
    messages = [message(0), message(1, properties={"text": "x" * 4_000_001}), message(2)]

    if settings:
        with pytest.raises(EventTooLarge) as caught:
            client.send_many(messages)
        sent = caught.value.sent
        assert sent is not None
    else:
        sent = client.send_many(messages)

    assert (sent.accepted, list(sent.refused)) == (1 if settings else 2, [1])
    assert "the limit is 4,000,000" in sent.refused[1]
    assert client.counts()["too_large"] == 1


def test_what_was_sent_stays_sent_when_the_iterable_raises(make: Make) -> None:
    """Its exception has the result, and every message before it is in the ring."""
    client = make()

    def messages(error: BaseException) -> Iterator[dict[str, Any]]:
        yield from map(message, range(70))
        yield {"type": "track"}
        raise error

    for error in (OSError("gone"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            client.send_many(messages(error))
        assert caught.value is error
        assert error.sent.accepted == 70  # type: ignore[union-attr]  # set by send_many
        assert list(error.sent.refused) == [70]  # type: ignore[union-attr]
        assert numbers(arrived(client)) == list(range(70))


def test_an_exception_that_takes_no_attribute_is_raised_as_it_is(make: Make) -> None:
    """An error of the application may have a ``sent`` of its own."""

    class Error(Exception):
        sent = property(lambda _self: "mine")

    def messages() -> Iterator[dict[str, Any]]:
        yield message(0)
        raise Error

    client = make()
    with pytest.raises(Error):
        client.send_many(messages())
    assert numbers(arrived(client)) == [0]


def test_the_iterable_runs_outside_the_lock(make: Make) -> None:
    """Its own calls are ordinary ones, which need no second slot, and it sees at most one chunk that waits."""
    client = make()

    def messages() -> Iterator[dict[str, Any]]:
        for number in range(200):
            assert client.track(f"u{1000 + number}", "Asked")
            yield message(number)
            assert number + 1 - (client.counts()["accepted"] - number - 1) < CHUNK_EVENTS

    assert client.send_many(messages()) == Sent(200)
    assert len(ring_of(client).slots_in_use()) == 1
    found = numbers(arrived(client))
    assert [number for number in found if number < 1000] == list(range(200))


def test_a_shutdown_in_the_middle_refuses_the_rest(make: Make) -> None:
    """The messages of the open chunk are refused too, because they are not in the ring yet."""
    client = make()

    def messages() -> Iterator[dict[str, Any]]:
        yield from map(message, range(CHUNK_EVENTS + 1))
        client.shutdown(0)
        yield message(CHUNK_EVENTS + 1)

    sent = client.send_many(messages())

    closed = str(EventRefused("closed"))
    assert sent.accepted + len(sent.refused) == CHUNK_EVENTS + 2
    assert sent.refused[CHUNK_EVENTS + 1] == closed
    assert set(sent.refused.values()) == {closed}


def test_what_a_client_adds_and_drops_is_as_in_a_call(make: Make) -> None:
    """Defaults, the request's context, sampling, ``before_send`` and the scrubber see each message."""
    client = make(
        context={"app": "shop", "ip": "client"},
        integrations={"All": True},
        default=str,
        sample_events={"Rare": 0.0},
        before_send=lambda found: None if found["userId"] == "u2" else {**found, "seen": True},
        scrubber=Scrubber(),
    )
    messages = [message(0, properties={"password": "x", "odd": {1 + 1j}}), message(1, event="Rare"), message(2)]

    with request_context({"ip": "request"}):
        sent = client.send_many(messages)

    assert sent == Sent(1, {1: DROPPED, 2: DROPPED})
    [found] = arrived(client)
    assert (found["seen"], found["integrations"]) == (True, {"All": True})
    assert found["properties"] == {"password": "[scrubbed]", "odd": ["(1+1j)"]}
    assert (found["context"]["app"], found["context"]["ip"]) == ("shop", "request")
    assert client.counts() == {"accepted": 1, "dropped": 2}


def test_a_plain_client_adds_the_requests_context(make: Make) -> None:
    """It changes while the iterable is read."""

    def messages() -> Iterator[dict[str, Any]]:
        for number in range(3):
            with request_context({"ip": str(number)}):
                yield message(number)

    client = make()
    assert client.send_many(messages()) == Sent(3)
    assert [found["context"]["ip"] for found in arrived(client)] == ["0", "1", "2"]


def test_a_client_that_sends_nothing_checks_and_counts() -> None:
    """Also with ``strict``."""
    sent = Client("KEY", "http://127.0.0.1:9", enable=False).send_many([message(0), {}, message(2)])
    assert (sent.accepted, list(sent.refused)) == (2, [1])
    with pytest.raises(EventError) as caught:
        Client("KEY", "http://127.0.0.1:9", enable=False, strict=True).send_many([message(0), {}])
    assert caught.value.sent is not None
    assert (caught.value.sent.accepted, list(caught.value.sent.refused)) == (1, [1])


def test_captured_events_hold_them(make: Make) -> None:
    """A capture raises at a wrong message, as at a wrong call."""
    client = make()
    with capture() as events:
        assert client.send_many([message(0), message(1)]) == Sent(2)
        with pytest.raises(EventError) as caught:
            client.send_many([message(2), {"type": "track"}, message(3)])
    assert numbers(events) == [0, 1, 2]
    assert caught.value.sent == Sent(1, {1: WRONG})
    with capture(strict=False) as events:
        assert client.send_many([{"type": "track"}, message(3)]) == Sent(1, {0: WRONG})
    assert numbers(events) == [3]


class Handed:
    """What a sending has handed on, in chunks."""

    def __init__(self) -> None:
        self.chunks: list[list[Encoded]] = []

    def take(self, events: Sequence[Encoded]) -> tuple[int, RudderpipeError | None]:
        """Take all events."""
        self.chunks.append(list(events))
        return len(events), None

    def sizes(self) -> list[int]:
        """Return how many events each chunk had."""
        return [len(chunk) for chunk in self.chunks]


def sending(taken: Handed, clock: FakeClock) -> Sending:
    """Return a sending for messages that are all right."""

    def wrong(error: Exception) -> RudderpipeError:
        raise error

    return Sending(taken.take, wrong, clock, CHUNK_EVENTS)


def itself(event: object) -> bytes:
    """Return the message, which is encoded already."""
    assert isinstance(event, bytes)
    return event


def test_a_chunk_is_bounded_in_events_and_bytes(clock: FakeClock) -> None:
    """An event that would exceed the bytes begins a chunk, and one that exceeds them alone waits for no other."""
    taken = Handed()
    small, half, large = b"x", b"x" * (CHUNK_BYTES // 2), b"x" * (CHUNK_BYTES + 1)

    assert sending(taken, clock).run([small] * 130, itself) == Sent(130)
    assert taken.sizes() == [64, 64, 2]
    taken.chunks.clear()
    sending(taken, clock).run([small, half, half, half, large, small, large], itself)
    assert taken.chunks == [[small, half], [half, half], [large], [small], [large]]


def test_an_event_of_a_slow_iterable_does_not_wait(clock: FakeClock) -> None:
    """Each is handed on before the iterable is asked for the next one. Quick ones share a chunk."""
    taken = Handed()

    def messages() -> Iterator[bytes]:
        for number in range(3):
            clock.now_s += CHUNK_S
            yield b"%d" % number
            assert taken.chunks[-1] == [b"%d" % number]
        for number in range(3, 6):
            clock.now_s += CHUNK_S * 0.4
            yield b"%d" % number

    sending(taken, clock).run(messages(), itself)

    assert taken.chunks == [[b"0"], [b"1"], [b"2"], [b"3", b"4", b"5"]]


def test_a_long_iterable_is_never_held_as_a_whole(clock: FakeClock) -> None:
    """At most a chunk of its messages waits."""
    taken, given = Handed(), 0

    def messages() -> Iterator[bytes]:
        nonlocal given
        for given in range(1, 1001):
            yield b"x"
            assert given - sum(taken.sizes()) < CHUNK_EVENTS

    assert sending(taken, clock).run(messages(), itself) == Sent(1000)
