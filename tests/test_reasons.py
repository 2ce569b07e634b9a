"""Why events failed: the reasons that the flusher stores in the ring's header."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rudderpipe.ring import failures, reasons
from rudderpipe.ring import layout as at
from rudderpipe.ring.failures import Failure
from rudderpipe.ring.reasons import Reason
from rudderpipe.ring.ring import Ring
from tests.crash_simulation import simulation_of
from tests.fakes import FakeClock


def test_the_latest_reason_is_read_as_it_was_stored(ring: Ring) -> None:
    """A text of any length and alphabet is stored; only its first 200 characters are."""
    assert reasons.latest(ring) is None
    for text in ("", "status 401: no", "é" * 500, "\N{ROCKET}" * 200):
        reasons.record(ring, Reason(3, 401, 7, text))
        latest = reasons.latest(ring)
        assert latest is not None
        assert text[:110].startswith(latest.text[:110])
        assert (latest.count, latest.status, latest.at_ms) == (3, 401, 7)


def test_one_reason_in_a_row_is_one_entry(ring: Ring) -> None:
    """A wrong write key fails thousands of batches, and must not displace the reasons before it."""
    reasons.record(ring, Reason(1, 500, 1, "down"))
    for number in range(100):
        reasons.record(ring, Reason(2, 401, number, "key"))

    assert reasons.latest(ring) == Reason(200, 401, 99, "key")
    assert reasons.of(ring, 0) is not None
    assert ring.words[at.H_REASONS] == 2


def test_each_failure_has_its_own_reason(ring: Ring) -> None:
    """Failures come in after their reason, up to the next reason."""
    for number in range(at.REASONS + 5):
        reasons.record(ring, Reason(1, number, 0, f"reason {number}"))
        failures.record(ring, Failure(0, number, number + 1))

    found = [reasons.of(ring, number) for number in range(at.REASONS + 5)]
    assert [reason and reason.status for reason in found] == [None] * 5 + list(range(5, at.REASONS + 5))


def test_a_damaged_reason_is_bounded(ring: Ring) -> None:
    """The log must not show what lies behind the text, or more than one line."""
    reasons.record(ring, Reason(1, 401, 0, "text"))
    place = at.REASONS_AT + at.REASON_WORDS
    ring.words[place + 5] = at.ALL_BITS
    ring.segment.memory[(place + 6) * 8 : (place + 6) * 8 + 4] = b"\x1b[0\n"

    latest = reasons.latest(ring)

    assert latest is not None
    assert len(latest.text) <= 500
    assert latest.text.isprintable()


def test_a_reader_never_sees_a_half_stored_reason(tmp_path: Path, clock: FakeClock) -> None:
    """A flusher that is killed at any store leaves the old reason, the new one, or none."""
    old, new = Reason(1, 500, 1, "the data plane is away"), Reason(2, 401, 2, "the write key is wrong")
    with simulation_of(tmp_path, clock) as simulation:
        for number in range(1, 30):
            simulation.reset()
            reasons.record(simulation.ring, old)
            flusher = simulation.process()
            is_over = flusher.run(partial(reasons.record, flusher.ring, new), number)
            assert reasons.latest(simulation.ring) in ((new,) if is_over else (old, new))
            if is_over:
                break
        assert number > 8
