"""What a call returns when the ring does not take its event, and how that is counted and logged."""

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
    """Yield a function that makes pipes of one name with different settings."""
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
    """Append an event as a client does; return what the call returns."""
    error = pipe.put(data)
    if error is not None and pipe.settings.when_full == "raise":
        raise error
    return error is None


def ring_of(pipe: Pipe) -> Ring:
    """Return the pipe's ring, which is open by now."""
    assert pipe.producer.ring is not None
    return pipe.producer.ring


def test_when_full_drop_returns_false_and_counts(pipes: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The log has one line for all refusals within a second, and the counter has each of them."""
    pipe = pipes()

    assert [put(pipe) for _ in range(CAP + 5)] == [True] * CAP + [False] * 5

    assert counters.read(ring_of(pipe)).refused == {"full": 5}
    assert caplog.messages == ["events refused reason=full count=1"]


def test_when_full_raise_raises_ring_full(pipes: Any) -> None:
    """The refusal is counted too."""
    pipe = pipes(when_full="raise")
    for _ in range(CAP):
        assert put(pipe)

    with pytest.raises(RingFull, match="full"):
        put(pipe)

    assert counters.read(ring_of(pipe)).refused == {"full": 1}


def test_when_full_block_waits_for_block_timeout_ms(pipes: Any, clock: FakeClock) -> None:
    """After that time the event is refused, and counted once."""
    pipe = pipes(when_full="block", block_timeout_ms=500)
    for _ in range(CAP):
        assert put(pipe)
    before_s = clock.now_s

    assert not put(pipe)

    assert 0.5 <= clock.now_s - before_s < 0.51
    assert counters.read(ring_of(pipe)).refused == {"full": 1}


def test_when_full_block_accepts_the_event_when_there_is_room(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is accepted as soon as the flusher has taken another one."""
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


def test_an_event_up_to_the_limit_passes_and_a_larger_one_raises(pipes: Any, caplog: pytest.LogCaptureFixture) -> None:
    """``EventTooLarge`` has both sizes and not the payload. The refusal is counted."""
    pipe = pipes(when_full="raise")

    assert put(pipe, b'"%b"' % (b"s" * (at.EVENT_MAX_BYTES - 2)))
    with pytest.raises(EventTooLarge) as caught:
        put(pipe, b"s" * (at.EVENT_MAX_BYTES + 1))

    assert (caught.value.size_bytes, caught.value.limit_bytes) == (4_000_001, 4_000_000)
    assert "sss" not in str(caught.value) + caplog.text
    assert counters.read(ring_of(pipe)).refused == {"too_large": 1}
    assert [len(text) for text in drain(Consumer(ring_of(pipe)))] == [4_000_000]


def test_a_large_event_is_logged_once_a_second(pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """As in the Node SDK, an event of more than 32 KiB is large, and one of exactly 32 KiB is not."""
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


def test_refusals_without_a_ring_are_counted_in_the_next_ring(pipes: Any, clock: FakeClock) -> None:
    """The refusals wait in the process. Each call says why, and the ring is tried again after a second."""
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


def test_a_nested_call_within_a_claim_does_not_block(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outer call holds the claim lock, so other processes would wait as long."""
    pipe = pipes(when_full="block")
    assert put(pipe)
    take_credits = claims.take_credits
    results: list[tuple[bool, float]] = []

    def interrupted(ring: Ring, slot: int, wanted: int) -> int:
        before_s = clock.now_s
        results.append((put(pipe), clock.now_s - before_s))
        return take_credits(ring, slot, wanted)

    monkeypatch.setattr(claims, "take_credits", interrupted)
    assert put(pipe)

    assert results == [(False, 0.0)]
    assert not pipe.producer.is_in_a_call


def test_a_producer_without_a_slot_counts_in_the_header(pipes: Any, clock: FakeClock) -> None:
    """All slots are taken, so events are refused as ``no_slot``. Events are accepted again when a slot is free."""
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
    """The lock's holder may be stopped. Only the first event waits, and all are refused as ``busy``."""
    pipe = pipes(max_internal_queue_size=1000)
    assert put(pipe)
    waits: list[float] = []

    def held(_byte: int, timeout_s: float) -> bool:
        waits.append(timeout_s)
        return False

    monkeypatch.setattr(ring_of(pipe).locks, "lock", held)
    results = [put(pipe) for _ in range(5)]
    clock.now_s += 1.5
    results.append(put(pipe))

    assert results == [False] * 6
    assert waits == [CLAIM_TIMEOUT_S, 0.0, 0.0, 0.0, 0.0, CLAIM_TIMEOUT_S]
    assert counters.read(ring_of(pipe)).refused == {"busy": 6}


def test_a_system_without_locks_refuses_and_does_not_raise(pipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without record locks an event is refused as ``ring``. The refusal is counted when there are locks again."""
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


def test_a_failed_start_of_the_flusher_raises_nothing_into_the_call(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The event was accepted, whatever is wrong with the start. Another start may be tried a second later."""
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
    """The limit holds however often a flush looks for a flusher, and whichever process tries."""
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


def test_only_one_flusher_is_started_at_a_time(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The starting process holds a lock until it serves or ends, however long that takes. Its end is logged."""
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


def test_an_abandoned_start_lock_counts_for_a_minute(tmp_path: Path) -> None:
    """A worker that was forked in the middle of a start may hold the lock for as long as it lives."""
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
    """Let the time pass, and then append an event, at which the pipe looks for trouble."""
    clock.now_s += seconds
    assert put(pipe)


def test_events_that_wait_for_half_a_minute_are_logged_once(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The alarm is logged again after some events have left and the next ones have waited as long."""
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


def test_a_drained_ring_gives_no_alarm(pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """The flusher's heartbeat does not matter, because the flusher may wait for its sink. A ring that was empty gives
    no alarm either."""
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


def test_a_forked_worker_has_an_alarm_of_its_own(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The parent's old events give no alarm in the worker, and the parent's alarm does not silence the worker's."""
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


def test_a_flusher_with_other_settings_is_logged_once(
    pipes: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the settings that differ, without values. Each process has some settings for itself."""
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
    """Another version's digests stand for other names. Digests that are being written are not compared either."""
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


def test_units_of_systemd_have_the_same_credential(
    pipes: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each unit has it in a directory of its own, and only flusher and sender have the password of Redis."""
    pipe = pipes()
    assert put(pipe)
    ring = ring_of(pipe)
    assert flusher_lock.take(ring, clock)

    def of(path: str, **more: str) -> Any:
        return msgspec.structs.replace(pipe.settings, write_key="", write_key_file=path, **more)

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/flusher")
    served_settings.record(ring, of("/run/credentials/flusher/write_key", redis_password_file="/run/password"))

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/shop")
    assert served_settings.differing(ring, of("/run/credentials/shop/write_key")) == []
    assert served_settings.differing(ring, of("/etc/other/write_key")) == ["write_key_file"]


def test_a_client_that_is_dropped_gives_its_slot_up(pipes: Any) -> None:
    """A program may make a client for each request. The events of a dropped client are drained all the same."""
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
    """The counts are the child's from its first call on."""
    pipe = pipes()
    assert put(pipe)
    assert not pipe.refuse("invalid", None)
    assert pipe.counts() == {"accepted": 1, "invalid": 1}

    fork.PAGE[0] = 0  # what a child finds

    assert pipe.counts() == {}


def test_a_forked_child_leaves_its_parents_slot_alone(pipes: Any) -> None:
    """A child that drops the client, or ends, must not give the parent's slot up."""
    pipe = pipes()
    assert put(pipe)
    ring = ring_of(pipe)

    fork.PAGE[0] = 0  # what a child finds
    del pipe
    gc.collect()

    assert not ring.words[ring.layout.slot(0) + at.S_LEFT]
    fork.renew()


def test_an_error_that_is_over_does_not_stop_a_flush(pipes: Any, clock: FakeClock) -> None:
    """One error comes before there is a ring, the other one later. A flush waits for events after each of them."""
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
    assert (result.pending, result.reason, result.complete) == (1, "no flusher serves the ring", False)


def test_the_start_lock_is_no_standard_descriptor(tmp_path: Path) -> None:
    """An application that closed its standard descriptors gets their numbers for its next files, but its child uses
    them for input and output."""
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


def test_calls_after_a_shutdown_are_refused_and_counted(pipes: Any) -> None:
    """``shutdown`` gives slot and ring up, so later refusals are counted in the process."""
    pipe = pipes()
    put(pipe)
    pipe.shut()

    assert not put(pipe)

    assert pipe.counts() == {"accepted": 1, "closed": 1}


def test_refusals_of_a_process_without_a_ring_are_counted_also_after_shutdown(tmp_path: Path) -> None:
    """An application learns how many events it lost, although no ring could be made."""
    (tmp_path / "file").touch()
    client = Client("WRITE_KEY", "http://127.0.0.1:9", runtime_dir=str(tmp_path / "file"), autostart=False)
    for _ in range(7):
        assert not client.track("u", "e")
    assert not client.track("u", "e", {"a": object()})
    counted = {"accepted": 0, "ring": 7, "invalid": 1}
    assert client.counts() == counted

    client.shutdown(0)

    assert client.counts() == counted


def test_a_nested_shutdown_leaves_the_other_clients_pipe_open(pipes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler shuts a client down while its first shutdown waits. Its share of the pipe ends once."""
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


def test_a_client_that_was_dropped_does_not_share_the_pipe(pipes: Any) -> None:
    """Otherwise the last shutdown of the others would not release the slot."""
    chosen = msgspec.structs.asdict(pipes().settings)
    given = {name: chosen[name] for name in ("pipe", "runtime_dir", "ring_bytes", "autostart")}
    kept, dropped = (Client("WRITE_KEY", "http://127.0.0.1:9", **given) for _ in range(2))
    assert kept.track("u", "e")
    pipe = kept._intake._own
    assert isinstance(pipe, Pipe)
    ring = ring_of(pipe)
    words, slot = ring.words, ring.layout.slot(0)

    del dropped
    gc.collect()
    assert not words[slot + at.S_LEFT]
    kept.shutdown(0)

    assert words[slot + at.S_LEFT]


def test_each_producer_of_a_slot_has_its_own_counts(pipes: Any) -> None:
    """The counts of earlier producers of the slot are subtracted. The total contains all of them."""
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


def test_no_log_line_holds_the_payload(pipes: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Lines about refused and large events say nothing of their contents."""
    caplog.set_level(logging.DEBUG)
    pipe = pipes()
    for _ in range(CAP + 2):
        put(pipe, b'"s3cret%b"' % (b"x" * 40_000))

    assert caplog.messages
    assert "s3cret" not in caplog.text
