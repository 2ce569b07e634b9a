"""Dead letters that were tried too often are delivered when the data plane is back, and the account follows them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import msgspec
import pytest

from rudderpipe.delivery import outcome
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.direct_sink import DirectSink
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.redelivery import PROBE_S
from rudderpipe.flusher.ring_set import Rings
from rudderpipe.observe import account
from rudderpipe.observe.account import Events
from rudderpipe.observe.dead_letter_jobs import DeadLetterJobs
from rudderpipe.queue.failed_jobs import Selection
from rudderpipe.ring import layout as at
from rudderpipe.ring import memory
from rudderpipe.ring.location import of_pipe
from rudderpipe.ring.ring import Ring, find_all, open_ring
from tests.fakes import FakeClock, producer_of, redelivery_of, settings_of

OK = outcome.of_answer(200, b"OK")
DOWN = outcome.of_answer(503, b"down")
BAD = outcome.of_answer(400, b"bad")


class Killed(BaseException):
    """The exception that stands for SIGKILL."""


class Plane:
    """A data plane that answers by ``answer``, and keeps the users of the requests that it took and of all others."""

    def __init__(self) -> None:
        self.answer: Callable[[list[str]], Outcome] = lambda _: OK
        self.requests: list[list[str]] = []
        self.taken: list[str] = []

    def post(self, body: bytes, *_: object) -> Outcome:
        users = [event["userId"] for event in msgspec.json.decode(body)["batch"]]
        self.requests.append(users)
        found = self.answer(users)
        self.taken += users if found.kind == "delivered" else []
        return found

    def close(self) -> None:
        """Close nothing."""


class Direct:
    """A pipe in direct mode: its ring, its flusher and its data plane."""

    def __init__(self, directory: Path, clock: FakeClock, **others: object) -> None:
        wanted = {"write_key": "KEY", "data_plane_url": "http://d", "max_attempts": 2, "flush_at": 2, **others}
        self.settings = settings_of(directory, autostart=False, ring_bytes=1 << 20, linger_s=0, **wanted)
        self.clock = clock
        self.plane = Plane()
        self.ring = open_ring(self.settings, clock)
        self.producer = producer_of(self.ring, clock)
        self.start()

    @property
    def letters(self) -> DeadLetters:
        """The dead letters, as another process sees them."""
        return dead_letters.of(self.settings)

    def start(self) -> None:
        """Begin again with nothing of what an earlier flusher knew."""
        letters = dead_letters.of(self.settings)
        letters.take_over()
        self.redelivery = redelivery_of(self.settings, self.plane, letters, self.clock, self.ring)
        sink = DirectSink(self.settings, self.ring.segment.epoch, self.redelivery, self.clock)
        self.flusher = Flusher(self.ring, sink, self.settings, self.clock)

    def send(self, names: str) -> None:
        """Append an event of each user, and ask for a flush."""
        for name in names:
            assert self.producer.append(b'{"userId":"%b"\n}' % name.encode()) is None
        self.producer.ask_flush()

    def run(self, seconds: float) -> None:
        """Let the flusher work for so long, in steps of a second."""
        for _ in range(int(seconds)):
            while self.flusher.work() + self.redelivery.work():
                pass
            self.clock.now_s += 1

    def fail(self, names: str) -> None:
        """Have events of these users become dead letters, because the data plane is away."""
        self.plane.answer = lambda _: DOWN
        self.send(names)
        self.run(20)
        assert "".join(self.kept()) == names
        self.plane.answer = lambda _: OK
        self.plane.requests.clear()

    def kept(self) -> list[str]:
        """Return the users of each dead letter."""
        return ["".join(msgspec.json.decode(event)["userId"] for event in one.events) for one in self.letters.records()]

    def account(self) -> Events:
        """Return the account, which balances."""
        events = account.of_ring(self.ring).events
        assert events.balanced
        assert events.accepted == events.in_ring + events.delivered + events.failed
        return events


@contextmanager
def pipe_of(directory: Path, clock: FakeClock, **others: object) -> Iterator[Direct]:
    """Yield a pipe, and remove its rings afterwards."""
    direct = Direct(directory, clock, **others)
    try:
        yield direct
    finally:
        for where in of_pipe(direct.settings):
            memory.remove(where.segment)


@pytest.fixture(name="direct")
def _direct(tmp_path: Path, clock: FakeClock) -> Iterator[Direct]:
    with pipe_of(tmp_path, clock) as direct:
        yield direct


def test_dead_letters_are_delivered_once_a_fresh_event_was(direct: Direct) -> None:
    """They are sent oldest first, and their events move from failed to delivered."""
    direct.fail("abcdef")
    assert (direct.account().failed, direct.account().delivered) == (6, 0)

    direct.send("x")
    direct.run(1)

    assert "".join(direct.plane.taken) == "xabcdef"
    assert direct.kept() == []
    assert (direct.account().failed, direct.account().delivered) == (0, 7)


def test_without_fresh_events_one_batch_is_tried_every_minute(direct: Direct) -> None:
    """The first one that is delivered is followed by all others, several in one request."""
    direct.fail("abcdefgh")
    direct.plane.answer = lambda _: DOWN
    direct.run(5 * PROBE_S)
    assert 4 <= len(direct.plane.requests) <= 6
    assert {len(users) for users in direct.plane.requests} == {2}

    direct.plane.answer = lambda _: OK
    direct.plane.requests.clear()
    direct.run(PROBE_S)

    assert [len(users) for users in direct.plane.requests] == [2, 6]
    assert sorted(direct.plane.taken) == list("abcdefgh")
    assert direct.account().delivered == 8


def test_a_new_flusher_sends_them_at_once(direct: Direct) -> None:
    """The data plane may be back since the last flusher ended."""
    direct.fail("abcd")
    direct.start()

    direct.run(1)

    assert "".join(direct.plane.taken) == "abcd"
    assert direct.account().delivered == 4


def test_what_was_refused_is_not_sent_again(direct: Direct) -> None:
    """Only a person can correct the cause, and retry."""
    direct.plane.answer = lambda _: outcome.of_answer(401, b"key")
    direct.send("ab")
    direct.run(1)
    direct.plane.answer = lambda _: OK
    direct.start()
    direct.send("x")

    direct.run(3 * PROBE_S)

    assert direct.plane.taken == ["x"]
    assert direct.kept() == ["ab"]
    assert direct.account().failed == 2


def test_only_the_guilty_event_of_a_dead_letter_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """The others of its batch are delivered. It stays, with the new reason, and is not sent again."""
    with pipe_of(tmp_path, clock, flush_at=8) as direct:
        direct.fail("abcdefgh")
        direct.plane.answer = lambda users: BAD if "f" in users else OK

        direct.run(3 * PROBE_S)

        assert "".join(direct.plane.taken) == "abcdegh"
        (left,) = direct.letters.records()
        assert (direct.kept(), left.reason) == (["f"], "status 400: bad (after 1 attempt)")
        assert direct.letters.names_again() == []
        assert (direct.account().failed, direct.account().delivered) == (1, 7)


def test_a_batch_that_always_fails_holds_up_neither_fresh_events_nor_others(direct: Direct) -> None:
    """It costs one request a minute."""
    direct.fail("abcdef")
    direct.plane.answer = lambda users: DOWN if "a" in users else OK
    for _ in range(int(4 * PROBE_S)):
        direct.send("x")
        direct.run(1)

    assert Counter(direct.plane.taken) == {**dict.fromkeys("bcdef"[1:], 1), "x": 4 * PROBE_S}
    assert sum("a" in users for users in direct.plane.requests) <= 5
    assert direct.kept() == ["ab"]


def test_fresh_events_and_dead_letters_take_turns(tmp_path: Path, clock: FakeClock) -> None:
    """A large backlog does not make fresh events wait."""
    with pipe_of(tmp_path, clock, max_jobs_per_request=1) as direct:
        direct.fail("abcdefgh")
        direct.start()
        direct.send("uvwxyz")
        direct.run(1)

        assert ["".join(users) for users in direct.plane.requests] == ["uv", "ab", "wx", "cd", "yz", "ef", "gh"]


def test_events_stay_in_the_ring_while_dead_letters_have_no_room(tmp_path: Path, clock: FakeClock) -> None:
    """An outage of any length loses nothing: the ring is full in the end, and refuses events visibly."""
    with pipe_of(tmp_path, clock, max_spool_bytes=2 * dead_letters.PAGE_BYTES) as direct:
        direct.plane.answer = lambda _: DOWN
        direct.send("abcdefgh")
        direct.run(600)
        assert direct.kept() == ["ab", "cd"]
        assert (direct.account().in_ring, direct.account().failed) == (4, 4)

        direct.plane.answer = lambda _: OK
        direct.run(2 * PROBE_S)

        assert sorted(direct.plane.taken) == list("abcdefgh")
        assert direct.account().delivered == 8


STEPS = {os: ("open", "fsync"), Path: ("replace", "unlink", "rename")}
"""The calls by which files change."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> tuple[bool, list[str]]:
    """Kill ``work`` before its call of this number. Return whether there was such a call, and the calls before it."""
    done: list[str] = []
    with monkeypatch.context() as patch:
        for owner, names in STEPS.items():
            for name in names:
                real = getattr(owner, name)

                def step(
                    *given: object, real: Callable[..., object] = real, name: str = name, **more: object
                ) -> object:
                    if len(done) == number:
                        raise Killed
                    done.append(name)
                    return real(*given, **more)

                patch.setattr(owner, name, step)
        try:
            work()
        except Killed:
            return True, done
    return False, done


@pytest.mark.parametrize("guilty", ["", "c", "ad"])
def test_a_kill_at_any_step_loses_no_event_and_keeps_the_account(
    guilty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the request whose response was not noted is sent again. At each step all events are somewhere."""
    for number in count():
        with pipe_of(tmp_path, FakeClock(), flush_at=4) as direct:
            direct.fail("abcdefgh")
            direct.plane.answer = lambda users: BAD if set(guilty) & set(users) else OK
            direct.start()
            was_killed, done = killed_at(number, monkeypatch, lambda d=direct: d.run(20))  # type: ignore[misc]  # called at once
            reached = Counter([*direct.plane.taken, *"".join(direct.kept())])
            assert set(reached) == set("abcdefgh")
            assert direct.account().accepted == 8
            in_doubt = direct.plane.requests[-1] if direct.plane.requests else []

            direct.start()
            direct.run(3 * PROBE_S)

            taken = Counter(direct.plane.taken)
            assert set(taken) == set("abcdefgh") - set(guilty)
            assert {user for user, times in taken.items() if times > 1} <= set(in_doubt)
            assert max(taken.values()) <= 2
            assert sorted("".join(direct.kept())) == sorted(guilty)
            account = direct.account()
            assert (account.delivered, account.failed) == (8 - len(guilty), len(guilty))
            for name in direct.letters.names():
                direct.letters.remove(name)
        if not was_killed:
            break
    assert number > 10, done


def test_an_event_is_sent_twice_only_after_a_kill_before_its_note(
    direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note is one rename. A kill after it doubles nothing."""
    direct.fail("ab")
    direct.start()
    calls: list[str] = []
    number = next(number for number in count() if "replace" in killed_in_a_copy(direct, monkeypatch, number, calls))
    assert number
    assert direct.plane.taken.count("a") >= 1
    before = direct.plane.taken.count("a")

    direct.start()
    direct.run(2 * PROBE_S)

    assert direct.plane.taken.count("a") == before
    assert (direct.account().delivered, direct.account().failed) == (2, 0)


def killed_in_a_copy(direct: Direct, monkeypatch: pytest.MonkeyPatch, number: int, calls: list[str]) -> list[str]:
    """Kill a new flusher at this step, and return the calls that it made."""
    direct.start()
    _, calls[:] = killed_at(number, monkeypatch, lambda: direct.run(1))
    return calls


def test_a_batch_that_its_ring_has_not_counted_is_left_alone(direct: Direct, clock: FakeClock) -> None:
    """The ring would send it again. When the ring is gone, the batch is delivered."""
    direct.fail("ab")
    stranger = redelivery_of(direct.settings, direct.plane, direct.letters, clock)
    assert stranger.work() == 0
    assert direct.plane.requests == []

    memory.remove(direct.ring.segment.name)
    clock.now_s += PROBE_S

    assert stranger.work() == 2
    assert "".join(direct.plane.taken) == "ab"
    assert direct.kept() == []


def test_a_command_and_the_flusher_do_not_send_a_batch_twice(direct: Direct, clock: FakeClock) -> None:
    """The command holds the file. What it chose before the flusher sent a part, it reads again."""
    direct.fail("abcd")
    jobs = DeadLetterJobs(direct.settings, clock)
    try:
        chosen = list(jobs.find(Selection()))
        assert all(one.reason.endswith(dead_letters.SENT_AGAIN) for one in chosen)
        first, _ = direct.letters.names()
        with direct.letters.held(first) as is_ours:
            assert is_ours
            direct.start()
            direct.run(1)
            assert "".join(direct.plane.taken) == "cd"
            record = direct.letters.read(first)
            assert record is not None
            direct.letters.replace(first, record.part(1, 1))
        assert jobs.retry(chosen) == 1
    finally:
        jobs.close()
    direct.producer.ask_flush()
    direct.run(1)
    assert "".join(direct.plane.taken) == "cdb"


def test_the_flusher_does_not_end_while_it_delivers_dead_letters(direct: Direct, clock: FakeClock) -> None:
    """It ends when they are delivered, and also when the data plane is away."""
    direct.fail("abcdef")
    direct.producer.leave()

    def make(ring: Ring, *, lingers: bool) -> Flusher:
        direct.redelivery.enter(ring)
        sink = DirectSink(direct.settings, ring.segment.epoch, direct.redelivery, clock)
        return Flusher(ring, sink, direct.settings, clock, lingers=lingers)

    rings = Rings(direct.settings, make, clock, stays=False, beside=direct.redelivery)
    direct.redelivery = redelivery_of(direct.settings, direct.plane, direct.letters, clock)
    rings._beside = direct.redelivery
    assert rings.enter()
    rings.work()
    assert not rings.finished()
    while not rings.finished():
        rings.work()
        clock.now_s += 1

    assert sorted(direct.plane.taken) == list("abcdef")
    assert direct.kept() == []
    rings.close()
    assert find_all(direct.settings) == []


def test_a_ring_of_the_layout_before_counts_recovered_events() -> None:
    """Its header has the word too."""
    before = at.for_version(3)
    assert before is not None
    assert before.header_words > at.H_RECOVERED
