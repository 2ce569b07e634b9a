"""The rates that ``rudderpipe top`` shows, and how its page fits into a terminal."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from rich.text import Text

from rudderpipe.cli import top_view
from rudderpipe.cli.top_view import Shown, wrapped
from rudderpipe.observe import flow
from rudderpipe.observe.finding import Finding
from rudderpipe.observe.flow import Flow, SenderFlow
from rudderpipe.observe.host_flow import HostWatch
from rudderpipe.observe.rates import RateMeter, Rates, quantile
from rudderpipe.observe.reader import Reader, View
from rudderpipe.queue.sender_report import SenderReport
from rudderpipe.ring import location
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, drain, producer_of

BUCKETS = [(0.1, 0), (1.0, 0), (None, 0)]
REPORT = SenderReport(0, 0, 0.0, 0, {}, {}, BUCKETS, "", "")


@pytest.fixture(name="view")
def _view(settings: Settings, ring: Ring, clock: FakeClock) -> View:
    producer_of(ring, clock).append(b"{}")
    return Reader(settings, clock).read()


@pytest.fixture(name="shown")
def _shown(view: View, settings: Settings) -> Flow:
    return flow.of(view.snapshot, settings, view.totals)


def at(shown: Flow, seconds: float, accepted: int, delivered: int, refused: int) -> Flow:
    """Return the flow at another moment, with these totals."""
    producers = msgspec.structs.replace(shown.producers, accepted=accepted, refused=refused)
    account = msgspec.structs.replace(shown.account, delivered=delivered)
    return msgspec.structs.replace(shown, taken_at_s=seconds, producers=producers, account=account)


def reported(shown: Flow, report: SenderReport | None) -> Flow:
    """Return the flow with the report of a sender."""
    return msgspec.structs.replace(shown, sender=SenderFlow("web-1", 7, 1, 5.0, 1, report))


def test_rates_are_those_of_the_last_seconds(shown: Flow) -> None:
    """The first look knows none; a total that falls, as after a restart, gives none either."""
    meter = RateMeter()

    assert meter.note(at(shown, 0, 0, 0, 0)) == Rates()
    found = meter.note(at(shown, 2, 100, 50, 10))
    assert (found.in_per_s, found.out_per_s, found.refused_per_s) == (50, 25, 5)
    assert meter.note(at(shown, 4, 100, 50, 10)).in_per_s == 25
    assert meter.note(at(shown, 8, 100, 50, 10)).in_per_s == 0
    assert meter.note(at(shown, 9, 99, 50, 10)) == Rates(None, 0.0, 0.0)


def test_without_redis_nothing_is_known_of_delivery(shown: Flow) -> None:
    """The account by the ring alone has no delivered events, and 0 would be a lie."""
    meter = RateMeter()
    away = msgspec.structs.replace(shown, mode="redis", queue_state=None)
    meter.note(at(shown, 0, 0, 100, 0))
    found = meter.note(at(away, 1, 10, 0, 0))

    assert (found.in_per_s, found.out_per_s) == (10, None)


def test_attempts_count_for_a_minute(shown: Flow) -> None:
    """A sender's first report is compared with its start, and one of another sender with nothing before."""
    meter = RateMeter()

    def note(written_s: int, buckets: list[int], started_ms: int = 0, **attempts: int) -> tuple[object, object]:
        report = msgspec.structs.replace(
            REPORT,
            written_ms=written_s * 1000,
            started_ms=started_ms,
            attempts=attempts,
            attempt_s_buckets=[(bound, total) for (bound, _), total in zip(BUCKETS, buckets, strict=True)],
        )
        found = meter.note(reported(shown, report))
        return found.retry_share, found.p95_s

    assert note(0, [0, 0, 0]) == (0.0, None)
    assert note(2, [100, 100, 100], delivered=100, retry=0) == (0.0, pytest.approx(0.095))
    share, p95_s = note(70, [100, 110, 110], delivered=105, retry=4, blocked=1)
    assert (share, p95_s) == (0.5, pytest.approx(0.1 + 0.9 * 0.95))
    assert note(72, [2, 2, 2], started_ms=71_000, delivered=2) == (0.0, pytest.approx(0.095))
    assert meter.note(reported(shown, None)) == Rates(None, None, None)


def test_a_quantile_above_all_bounds_is_the_last_bound() -> None:
    """It is at least that."""
    assert quantile([(0.1, 0), (1.0, 1), (None, 10)], 0.95) == 1.0
    assert quantile([], 0.95) is None


@pytest.mark.parametrize("width", [1, 2, 7, 12, 20, 33, 80])
def test_a_line_that_is_too_long_is_continued_beside_its_label(width: int) -> None:
    """No character is lost but blanks, no line is wider, and each keeps its colours."""
    line = Text.assemble(("TROUBLE", "red"), "  The ring is full: see averylongwordwithoutblanks ", ("here", "yellow"))
    pieces = wrapped([line], width)

    assert max(map(len, pieces)) <= width
    assert "".join(piece.plain for piece in pieces).replace(" ", "") == line.plain.replace(" ", "")
    if width == 33:
        assert [piece.plain for piece in pieces] == [
            "TROUBLE  The ring is full: see",
            "         averylongwordwithoutblan",
            "         ks here",
        ]
        assert [(span.start, span.end, span.style) for span in pieces[2].spans] == [(12, 16, "yellow")]


@pytest.mark.parametrize("columns", [10, 30, 80, 200])
def test_the_numbers_stay_however_many_troubles_there_are(columns: int, view: View, shown: Flow) -> None:
    """The least troubles are only counted where the terminal is too low."""
    troubles = [Finding("trouble", f"{number}", f"Trouble {number}.", "Mend it.") for number in range(9)]
    page = Shown(view, msgspec.structs.replace(shown, findings=troubles), Rates(), [], "")
    for height in (24, 1000):
        lines = top_view.of_pipe(page, os.terminal_size((columns, height)), None, is_ascii=True)
        text = "\n".join(line.plain for line in lines)

        assert max(map(len, lines)) <= columns
        assert ("Fill%" in text, "Trouble 0" in text.replace("\n         ", " ")) == (True, True)
        assert (height == 1000) == ("Trouble 8" in text.replace("\n         ", " "))
        if columns >= 80:
            assert height == 1000 or ("for which the terminal is too low" in text and len(lines) <= 23)


def test_every_ring_has_its_rates(settings: Settings, ring: Ring, clock: FakeClock, tmp_path: Path) -> None:
    """They are those of the ring alone, whichever pipe it belongs to."""
    producer, watch = producer_of(ring, clock), HostWatch(str(tmp_path), clock)
    stem = location.own(settings).stem

    def row() -> tuple[float | None, float | None, int, bool]:
        found = next(each for each in watch.read() if each.ring == stem)
        return found.in_per_s, found.out_per_s, found.events, found.is_stuck

    assert row() == (None, None, 0, False)
    for _ in range(10):
        producer.append(b"1")
    clock.sleep(2)
    assert row() == (5, 0, 10, True)
    drain(Consumer(ring))
    clock.sleep(2)
    assert row() == (2.5, 2.5, 0, False)
