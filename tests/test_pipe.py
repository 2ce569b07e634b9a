"""What a call answers when the ring does not take its event, and what is said and counted then."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe import Client
from rudderpipe.errors import EventTooLarge, RingFull, RingUnavailable
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.process import fork, identity, spawn, start_lock
from rudderpipe.ring import claims, counters, flusher_lock, location, memory, served_settings
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import Ring
from rudderpipe.ring.slot import CLAIM_TIMEOUT_S
from rudderpipe.transports.ring import Pipe
from tests.fakes import FakeClock, FakeSink, drain, settings_of

CAP = 10


@pytest.fixture(name="pipes")
def _pipes(tmp_path: Path, clock: FakeClock) -> Iterator[Any]:
    """Makes pipes of one name and of different settings."""
    base = settings_of(tmp_path)

    def make(**settings: Any) -> Pipe:
        chosen = {
            "pipe": base.pipe,
            "runtime_dir": str(tmp_path),
            "ring_bytes": 8 << 20,
            "max_internal_queue_size": CAP,
        }
        return Pipe(settings_of(tmp_path, **{**chosen, "autostart": False, **settings}), clock)

    yield make
    memory.remove(location.own(base).segment)


def put(pipe: Pipe, data: bytes = b'"x"') -> bool:
    """As a client does."""
    reason = pipe.producer.append(data)
    return reason is None or pipe.refused(reason, data)


def ring_of(pipe: Pipe) -> Ring:
    """Its ring, which is open by now."""
    assert pipe.producer.ring is not None
    return pipe.producer.ring


def test_drop_answers_false_and_counts(pipes: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log for however many within a second; the account has them all."""
    pipe = pipes()

    assert [put(pipe) for _ in range(CAP + 5)] == [True] * CAP + [False] * 5

    assert counters.read(ring_of(pipe)).refused == {"full": 5}
    assert caplog.messages == ["events refused reason=full count=1"]


def test_raise_tells_the_reason(pipes: Any) -> None:
    """``RingFull`` where that was asked for, and counted just the same."""
    pipe = pipes(when_full="raise")
    for _ in range(CAP):
        assert put(pipe)

    with pytest.raises(RingFull, match="full"):
        put(pipe)

    assert counters.read(ring_of(pipe)).refused == {"full": 1}


def test_block_waits_for_its_time_and_no_longer(pipes: Any, clock: FakeClock) -> None:
    """``block_timeout_ms`` bounds the wait; then the event is refused and counted once."""
    pipe = pipes(when_full="block", block_timeout_ms=500)
    for _ in range(CAP):
        assert put(pipe)
    before_s = clock.now_s

    assert not put(pipe)

    assert 0.5 <= clock.now_s - before_s < 0.51
    assert counters.read(ring_of(pipe)).refused == {"full": 1}


def test_block_goes_on_when_room_comes(pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event is accepted as soon as the flusher has taken one."""
    pipe = pipes(when_full="block", block_timeout_ms=10_000)
    for _ in range(CAP):
        put(pipe)
    consumer, before_s = Consumer(ring_of(pipe)), clock.now_s

    def passes(seconds: float) -> None:
        clock.now_s += seconds
        if clock.now_s - before_s > 0.1:
            drain(consumer)

    monkeypatch.setattr(clock, "sleep", passes)
    assert put(pipe)

    assert clock.now_s - before_s < 0.2
    assert counters.read(ring_of(pipe)).refused == {}


def test_an_event_up_to_the_limit_passes_and_one_above_is_an_error(
    pipes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """4,000,000 bytes pass; one more is ``EventTooLarge`` with both sizes, counted, and without the payload."""
    pipe = pipes(when_full="raise")

    assert put(pipe, b'"%b"' % (b"s" * (at.EVENT_MAX_BYTES - 2)))
    with pytest.raises(EventTooLarge) as caught:
        put(pipe, b"s" * (at.EVENT_MAX_BYTES + 1))

    assert (caught.value.size_bytes, caught.value.limit_bytes) == (4_000_001, 4_000_000)
    assert "sss" not in str(caught.value) + caplog.text
    assert counters.read(ring_of(pipe)).refused == {"too_large": 1}
    assert [len(text) for text in drain(Consumer(ring_of(pipe)))] == [4_000_000]


def test_a_large_event_is_warned_of_once_a_second(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Above 32 KiB, as in the Node SDK; not at 32 KiB."""
    pipe = pipes()

    for _ in range(3):
        put(pipe, b"s" * 32_768)
    assert caplog.messages == []
    for _ in range(3):
        put(pipe, b"s" * 32_769)
    clock.now_s += 2
    put(pipe, b"s" * 40_000)

    assert caplog.messages == [
        "an event has 32,769 bytes, more than 32,768; keep events small reason=large count=1",
        "an event has 40,000 bytes, more than 32,768; keep events small reason=large count=3",
    ]


def test_refusals_before_there_is_a_ring_are_counted_when_there_is_one(pipes: Any, clock: FakeClock) -> None:
    """They wait in the process; a call says why, and the ring is tried again after a second."""
    pipe = pipes(when_full="raise")
    opened = pipe.producer.slot.open_ring

    def fails() -> Ring:
        raise RingUnavailable("name", "shared memory is full")

    pipe.producer.slot.open_ring = fails
    for _ in range(3):
        with pytest.raises(RingUnavailable, match="shared memory is full"):
            put(pipe)
    pipe.producer.slot.open_ring = opened
    with pytest.raises(RingUnavailable):
        put(pipe)
    clock.now_s += 1.5

    assert put(pipe)
    assert counters.read(ring_of(pipe)).refused == {"ring": 4}


def test_a_call_from_within_a_claim_does_not_block(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outer call holds the claim lock, for which other processes would wait as long."""
    pipe = pipes(when_full="block")
    assert put(pipe)
    take_credits = claims.take_credits
    answers: list[tuple[bool, float]] = []

    def interrupted(ring: Ring, slot: int, wanted: int) -> int:
        before_s = clock.now_s
        answers.append((put(pipe), clock.now_s - before_s))
        return take_credits(ring, slot, wanted)

    monkeypatch.setattr(claims, "take_credits", interrupted)
    assert put(pipe)

    assert answers == [(False, 0.0)]
    assert not pipe.producer.is_in_a_call


def test_a_producer_without_a_slot_counts_under_the_claim_lock(pipes: Any, clock: FakeClock) -> None:
    """All slots are taken: refused as ``no_slot``, in the header's counters, and let in when one is free."""
    first, second = pipes(), pipes()
    assert put(first)
    ring = ring_of(first)
    taken = [slot for slot in range(at.SLOTS) if slot not in ring.slots_in_use()]
    me = identity.me()
    for slot in taken:
        for word, value in ((at.S_PID, me.pid), (at.S_START, me.start), (at.S_NAMESPACE, me.namespace)):
            ring.words[ring.layout.slot(slot) + word] = value
        ring.words[ring.layout.slot(slot) + at.S_IMAGE] = claims._image.number

    assert [put(second) for _ in range(3)] == [False] * 3
    assert counters.read(ring).refused == {"no_slot": 3}
    assert ring.words[at.H_REFUSED + at.REFUSALS.index("no_slot")] == 3

    ring.words[ring.layout.slot(taken[0]) + at.S_PID] = 0
    clock.now_s += 1.5
    assert put(second)


def test_a_claim_lock_that_is_held_costs_one_wait_a_second(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder may be stopped: events are refused as ``busy``, the first after a bounded wait, the next at once."""
    pipe = pipes(max_internal_queue_size=1000)
    assert put(pipe)
    waits: list[float] = []

    def held(_byte: int, timeout_s: float) -> bool:
        waits.append(timeout_s)
        return False

    monkeypatch.setattr(ring_of(pipe).locks, "lock", held)
    answers = [put(pipe) for _ in range(5)]
    clock.now_s += 1.5
    answers.append(put(pipe))

    assert answers == [False] * 6
    assert waits == [CLAIM_TIMEOUT_S, 0.0, 0.0, 0.0, 0.0, CLAIM_TIMEOUT_S]
    assert counters.read(ring_of(pipe)).refused == {"busy": 6}


def test_a_system_without_locks_refuses_and_does_not_raise(pipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record lock to be had: ``ring``, counted when there is one again; nothing is raised into the call."""
    pipe = pipes(max_internal_queue_size=1000)
    assert put(pipe)

    def fails(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", fails)
        assert [put(pipe) for _ in range(3)] == [False] * 3
    assert pipe.producer.trouble is not None
    assert "No locks available" in str(pipe.producer.trouble)

    assert put(pipe)
    assert counters.read(ring_of(pipe)).refused == {"ring": 3}


def test_seeing_after_the_flusher_never_raises(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with starting one, the event was accepted; another start may be tried a second later."""
    pipe = pipes(autostart=True)

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise TypeError("child watchers are only available on the default loop")

    monkeypatch.setattr(spawn, "start_detached", fails)
    assert put(pipe)

    assert "the flusher cannot be started: child watchers" in caplog.text
    assert not flusher_lock.may_start(ring_of(pipe), clock)
    clock.now_s += flusher_lock.RETRY_MS / 1000
    assert flusher_lock.may_start(ring_of(pipe), clock)


def test_a_start_that_the_system_refuses_is_tried_once_a_second(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a flush looks whether there is a flusher, and whichever process tries."""
    pipe = pipes(autostart=True)
    tries: list[float] = []

    def fails(*_arguments: Any, **_options: Any) -> None:
        tries.append(clock.monotonic_s())
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(spawn, "start_detached", fails)
    flush = pipe.flush() if put(pipe) else None
    assert flush is not None
    for _ in range(500):
        clock.sleep(0.01)
        flush.poll()

    assert 5 <= len(tries) <= 6
    assert not flusher_lock.may_start(ring_of(pipe), clock)
    clock.sleep(1.0)
    assert flusher_lock.may_start(ring_of(pipe), clock)


def test_while_a_flusher_starts_no_other_one_is_started(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process that starts holds a lock until it serves or ends, for as long as that takes; the end is told."""
    held: list[int] = []

    def starts(*_arguments: Any, keep: tuple[int, ...], **_options: Any) -> None:
        held.append(os.dup(keep[0]))  # as a child inherits it

    monkeypatch.setattr(spawn, "start_detached", starts)
    first, second = pipes(autostart=True), pipes(autostart=True)
    put(first)
    put(second)
    for _ in range(10):
        clock.sleep(4)
        assert not first.flush().poll().complete
        assert not second.flush().poll().complete
    assert len(held) == 1
    assert "has ended" not in caplog.text

    os.close(held.pop())
    for _ in range(2):
        clock.sleep(4)
        first.flush()

    assert "the flusher that was started has ended: it logged nothing" in caplog.text
    assert len(held) == 1
    os.close(held.pop())


def test_a_lock_of_a_start_that_nothing_gives_back_counts_for_a_minute(tmp_path: Path) -> None:
    """A worker that was forked in the middle of a start may hold it as long as it lives."""
    path = tmp_path / "pipe.start"
    held = start_lock.take(path)
    assert held is not None
    assert start_lock.take(path) is None
    assert start_lock.is_taken(path)

    start_lock.sweep(tmp_path)
    assert path.exists()

    os.utime(path, (0, 0))

    assert not start_lock.is_taken(path)
    start_lock.sweep(tmp_path)
    assert not path.exists()
    next_one = start_lock.take(path)
    assert next_one is not None
    assert start_lock.is_taken(path)
    for fd in (held, next_one):
        os.close(fd)


ALARM = "no flusher has drained the ring"


def later(pipe: Pipe, clock: FakeClock, seconds: float) -> None:
    """Time passes, and then there is an event, at which the pipe looks around."""
    clock.now_s += seconds
    assert put(pipe)


def test_events_that_wait_for_half_a_minute_are_told_once(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """And once more after some have left, and the next ones wait as long."""
    pipe = pipes(max_internal_queue_size=100)
    consumer = Consumer(ring_of(pipe)) if put(pipe) else None
    assert consumer is not None

    later(pipe, clock, 29)
    assert ALARM not in caplog.text
    later(pipe, clock, 2)
    later(pipe, clock, 2)
    assert caplog.text.count(ALARM) == 1

    drain(consumer)
    later(pipe, clock, 60)
    assert caplog.text.count(ALARM) == 1
    later(pipe, clock, 31)
    assert caplog.text.count(ALARM) == 2


def test_a_ring_that_is_drained_gives_no_alarm(pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Though its flusher's heart does not beat, as it waits for an answer; nor does a ring that was empty."""
    pipe = pipes(max_internal_queue_size=100)
    consumer = Consumer(ring_of(pipe)) if put(pipe) else None
    assert consumer is not None

    for _ in range(5):
        drain(consumer)
        later(pipe, clock, 20)
    drain(consumer)
    pipe.warm_up()
    later(pipe, clock, 600)

    assert ALARM not in caplog.text


def test_a_forked_worker_has_seen_and_told_nothing(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What the master saw half a minute ago is no alarm of the worker's, and what the master told silences none."""
    pipe = pipes(max_internal_queue_size=100)
    assert put(pipe)
    later(pipe, clock, 20)

    fork.PAGE[0] = 0  # what a child finds
    later(pipe, clock, 15)
    assert ALARM not in caplog.text
    later(pipe, clock, 31)
    assert caplog.text.count(ALARM) == 1
    fork.PAGE[0] = 0
    later(pipe, clock, 1)
    later(pipe, clock, 31)
    assert caplog.text.count(ALARM) == 2


def test_a_flusher_with_other_settings_is_noticed(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names what differs, and no value; settings that each process has of its own do not count."""
    pipe = pipes(write_key="s3cret", data_plane_url="http://d/", max_internal_queue_size=100)
    assert put(pipe)
    ring = ring_of(pipe)
    same = {"write_key": "s3cret", "data_plane_url": "http://D:80/v1/batch"}

    def serve(**settings: Any) -> None:
        assert flusher_lock.take(ring, clock)
        Flusher(ring, FakeSink(), msgspec.structs.replace(pipe.settings, **{**same, **settings}), clock)
        later(pipe, clock, 2)
        later(pipe, clock, 2)

    serve(autostart=True, when_full="block", linger_s=1.0)
    assert caplog.messages == []
    serve(flush_at=7, write_key="0ther", redis="redis://:s3cret@h")
    serve(flush_at=7, write_key="0ther", redis="redis://:s3cret@h")
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "the flusher of this pipe uses other settings than this client: write_key, flush_at, redis"
    ]
    serve()
    serve(gzip=False)
    assert len(caplog.messages) == 2
    assert "this client: gzip;" in caplog.text
    assert "s3cret" not in caplog.text
    assert "0ther" not in caplog.text


def test_settings_of_another_version_are_not_compared(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Their digests stand for other names; nor are those that are being written."""
    pipe = pipes()
    assert put(pipe)
    ring = ring_of(pipe)
    assert flusher_lock.take(ring, clock)
    served_settings.record(ring, msgspec.structs.replace(pipe.settings, flush_at=7))
    for word in (at.H_SERVED, at.H_SERVED + 1):
        before, ring.words[word] = ring.words[word], 12345
        later(pipe, clock, 2)
        assert caplog.messages == []
        ring.words[word] = before
    later(pipe, clock, 2)
    assert len(caplog.messages) == 1


def test_a_client_that_is_dropped_gives_its_slot_up(pipes: Any) -> None:
    """A program may make one for each request; what it put in is drained without it."""
    keeps = pipes()
    assert put(keeps)
    ring = ring_of(keeps)

    for slot in (1, 2):
        dropped = pipes()
        assert put(dropped)
        assert ring.slots_in_use()[-1] == slot
        assert not ring.words[ring.layout.slot(slot) + at.S_LEFT]
        del dropped
        gc.collect()
        assert ring.words[ring.layout.slot(slot) + at.S_LEFT]

    assert not ring.words[ring.layout.slot(0) + at.S_LEFT]
    assert counters.read(ring).in_ring == 3


def test_a_forked_child_counts_its_own_events(pipes: Any) -> None:
    """From its first call on, whichever it is."""
    pipe = pipes()
    assert put(pipe)
    assert not pipe.refuse("invalid", None)
    assert pipe.counts() == {"accepted": 1, "invalid": 1}

    fork.PAGE[0] = 0  # what a child finds

    assert pipe.counts() == {}


def test_a_forked_child_leaves_its_parents_slot_alone(pipes: Any) -> None:
    """A child that drops the client, or ends, says nothing about the parent."""
    pipe = pipes()
    assert put(pipe)
    ring = ring_of(pipe)

    fork.PAGE[0] = 0  # what a child finds
    del pipe
    gc.collect()

    assert not ring.words[ring.layout.slot(0) + at.S_LEFT]
    fork.renew()


def test_a_trouble_that_is_over_does_not_stop_a_flush(pipes: Any, clock: FakeClock) -> None:
    """Neither one before there was a ring, though no event came since, nor one in between: a flush waits again."""
    pipe = pipes()
    opened = pipe.producer.slot.open_ring

    def fails() -> Ring:
        raise RingUnavailable("name", "shared memory is full")

    pipe.producer.slot.open_ring = fails
    assert not put(pipe)
    assert pipe.flush().poll().reason == "ring name: shared memory is full"
    pipe.producer.slot.open_ring = opened
    clock.now_s += 1.5
    assert pipe.flush().poll().complete

    assert put(pipe)
    pipe.producer.slot.trouble = RingUnavailable("name", "No locks available")
    result = pipe.flush().poll()
    assert (result.pending, result.reason, result.complete) == (1, "", False)


def test_the_lock_of_a_start_is_no_standard_descriptor(tmp_path: Path) -> None:
    """An application that closed those gets their numbers for its next files, and its child has its own ones there."""
    kept = os.dup(0)
    os.close(0)
    try:
        fd = start_lock.take(tmp_path / "pipe.start")
        assert fd is not None
        assert fd > 2
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert start_lock.is_taken(tmp_path / "pipe.start")
    os.close(fd)


def test_after_the_end_calls_are_refused_and_counted(pipes: Any) -> None:
    """``shutdown`` gives slot and ring up; what is refused later is counted in the process."""
    pipe = pipes()
    put(pipe)
    pipe.shut()

    assert not put(pipe)

    assert pipe.counts() == {"accepted": 1, "closed": 1}


def test_a_shutdown_within_a_shutdown_leaves_the_other_clients_pipe_open(
    pipes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a signal handler while the first one waits: a client gives its share of the pipe up once."""
    chosen = msgspec.structs.asdict(pipes().settings)
    given = {name: chosen[name] for name in ("pipe", "runtime_dir", "ring_bytes", "autostart")}
    first, second = (Client("WRITE_KEY", "http://127.0.0.1:9", **given) for _ in range(2))
    real = first.flush

    def interrupted(timeout_s: float) -> object:
        monkeypatch.undo()
        first.shutdown(0)
        return real(timeout_s)

    monkeypatch.setattr(first, "flush", interrupted)
    first.shutdown(0)

    assert not first.track("u", "late")
    assert second.track("u", "e")
    second.shutdown(0)


def test_each_producers_account_is_its_own_and_outlives_it(pipes: Any) -> None:
    """By slot, with what its earlier producers did taken off; the total is of all."""
    first = pipes()
    for _ in range(CAP + 2):
        put(first)
    ring = ring_of(first)
    first.shut()
    slot = counters.read(ring).producers[0]
    assert (slot.accepted, slot.in_ring, slot.refused) == (CAP, CAP, {"full": 2})
    assert Reclaimer(ring).work() == 1
    drain(Consumer(ring))

    second = pipes()
    for _ in range(3):
        put(second)

    found = counters.read(ring)
    assert (found.producers[0].accepted, found.producers[0].refused) == (3, {})
    assert (found.accepted, found.refused) == (CAP + 3, {"full": 2})


def test_a_warning_names_no_payload(pipes: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is refused or warned of, the event itself is in no line."""
    caplog.set_level(logging.DEBUG)
    pipe = pipes()
    for _ in range(CAP + 2):
        put(pipe, b'"s3cret%b"' % (b"x" * 40_000))

    assert caplog.messages
    assert "s3cret" not in caplog.text
