"""The flow of a pipe and its troubles, as the page, ``top`` and ``status`` show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe.cli import status
from rudderpipe.encoder import encode
from rudderpipe.observe import findings, flow, snapshot, status_json
from rudderpipe.observe.active_lanes import LaneState
from rudderpipe.observe.findings import Recent
from rudderpipe.observe.flow import Watch
from rudderpipe.observe.pipe_queues import LeaseState, PipeQueue, QueueState
from rudderpipe.observe.reader import Reader
from rudderpipe.observe.shares import ShareMeter
from rudderpipe.observe.snapshot import Snapshot
from rudderpipe.observe.spill_state import SpillState
from rudderpipe.process.clock import iso_ms
from rudderpipe.queue.sender_report import Sender, SenderReport
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, producer_of, settings_of

RUNBOOK = Path(__file__).parent.parent / "docs/runbook.md"
QUEUE = QueueState(
    waiting=0,
    active=0,
    delayed=0,
    failed=0,
    completed=0,
    paused=False,
    used_bytes=0,
    max_bytes=1000,
    events_queued=0,
    events_delivered=0,
    events_failed=0,
    events_removed=0,
    events_elsewhere=0,
    events_lost=0,
    odd_fields=0,
    other_plane="",
    evicting_policy="",
    lanes=[],
    oldest_job_age_s=None,
    oldest_failed_age_s=None,
)
LEASE = LeaseState(3, "web-1", 811, 4.5)
HOME = PipeQueue(
    name="{rudder}:rudderEventsQueue",
    prefix="rudder",
    place="localhost:6379/0",
    generation=0,
    is_current=True,
    state=QUEUE,
    lease=LEASE,
)
REPORT = SenderReport(
    written_ms=1_700_000_001_000,
    started_ms=1_700_000_000_000,
    retry_in_s=0.0,
    delivered_events=20,
    attempts={"delivered": 1, "retry": 0, "failed": 0, "split": 0, "fewer": 0, "blocked": 0},
    classes={"http_2xx": 1},
    attempt_s_buckets=[(0.1, 0), (1.0, 1), (None, 1)],
    last_class="http_2xx",
    last_reason="status 503",
)


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path, ring_bytes=1 << 20, max_internal_queue_size=10)


@pytest.fixture(name="well")
def _well(settings: Settings, ring: Ring, clock: FakeClock) -> Snapshot:
    """A pipe with a queue, whose ring holds one event and is served."""
    producer_of(ring, clock).append(encode({"originalTimestamp": iso_ms(clock.time_ms())}))
    clock.sleep(0.4)
    found = snapshot.take(settings, clock)
    served = msgspec.structs.replace(found.rings[0], flusher_pid=7, heartbeat_age_s=0.1)
    return msgspec.structs.replace(found, redis="localhost:6379/0", rings=[served], queues=[HOME])


def with_queue(**changes: Any) -> Callable[[Snapshot], Snapshot]:
    """Return what changes the jobs of the queue of a snapshot."""
    return lambda found: of_home(found, state=msgspec.structs.replace(QUEUE, **changes))


def of_home(found: Snapshot, **changes: Any) -> Snapshot:
    """Return a snapshot with one queue, which is changed so."""
    return msgspec.structs.replace(found, queues=[msgspec.structs.replace(found.queues[0], **changes)])


def with_queues(*others: PipeQueue) -> Callable[[Snapshot], Snapshot]:
    """Return what gives a snapshot more queues, of another generation."""

    def change(found: Snapshot) -> Snapshot:
        home = msgspec.structs.replace(HOME, is_current=False)
        return msgspec.structs.replace(found, queues=[home, *others])

    return change


def queue_of(place: int, state: QueueState | None = QUEUE, **changes: Any) -> PipeQueue:
    """Return one of several queues of generation 1."""
    own = {
        "name": f"{{rudder-{place}}}:rudderEventsQueue",
        "prefix": f"rudder-{place}",
        "place": f"redis-{place}:6379/0",
    }
    return msgspec.structs.replace(HOME, generation=1, state=state, **own, **changes)


def with_ring(events: int = 1, **changes: Any) -> Callable[[Snapshot], Snapshot]:
    """Return what changes the ring of a snapshot."""

    def change(found: Snapshot) -> Snapshot:
        counters = msgspec.structs.replace(found.rings[0].counters, in_ring=events)
        state = msgspec.structs.replace(found.rings[0], counters=counters, **changes)
        return msgspec.structs.replace(found, ring=counters, rings=[state])

    return change


def with_part(name: str, **changes: Any) -> Callable[[Snapshot], Snapshot]:
    """Return what changes the account or the dead letters of a snapshot."""
    return lambda found: msgspec.structs.replace(
        found, **{name: msgspec.structs.replace(getattr(found, name), **changes)}
    )


def after_attempt(class_: str, jobs: int = 1) -> Callable[[Snapshot], Snapshot]:
    """Return what makes this the class of the last attempt, with so many jobs in line."""

    def change(found: Snapshot) -> Snapshot:
        report = msgspec.structs.replace(REPORT, last_class=class_)
        return of_home(with_queue(waiting=jobs)(found), senders=[Sender("web-1", 811, report)])

    return change


def without_sender(found: Snapshot) -> Snapshot:
    """Return a snapshot with jobs in line and no lease."""
    return of_home(with_queue(waiting=2, events_queued=40)(found), lease=None)


def without_redis(found: Snapshot) -> Snapshot:
    """Return a snapshot of a pipe whose Redis is away."""
    return of_home(found, state=None, lease=None, trouble="redis cannot be used: timeout.")


OWN = Sender("web-1", 811, REPORT)
TROUBLES: list[tuple[str, str, Callable[[Snapshot], Snapshot]]] = [
    ("redis_away", "trouble", without_redis),
    ("no_flusher", "trouble", with_ring(flusher_pid=None)),
    ("flusher_silent", "trouble", with_ring(heartbeat_age_s=5.1)),
    ("flusher_silent", "warning", with_ring(0, heartbeat_age_s=5.1)),
    ("sink_down", "warning", with_ring(sink_down_s=1.0)),
    ("sink_down", "trouble", with_ring(sink_down_s=16.0)),
    ("unconfirmed", "warning", with_ring(unconfirmed_s=1.0)),
    ("unconfirmed", "trouble", with_ring(unconfirmed_s=16.0)),
    ("ring_filling", "warning", with_ring(8)),
    ("ring_full", "trouble", with_ring(10)),
    ("other_plane", "trouble", with_queue(other_plane="https://other.example")),
    ("no_sender", "trouble", without_sender),
    ("paused", "warning", with_queue(paused=True)),
    ("paused", "trouble", with_queue(paused=True, waiting=1)),
    ("job_old", "warning", with_queue(oldest_job_age_s=301.0)),
    ("job_too_old", "trouble", with_queue(oldest_job_age_s=3001.0)),
    ("lanes_blocked", "warning", with_queue(lanes=[LaneState("0/4", 3, 1), LaneState("1/4", 3, 0)])),
    ("failed_jobs", "warning", with_queue(failed=3, events_failed=60)),
    ("queue_near_max_bytes", "warning", with_queue(used_bytes=800)),
    ("queue_near_max_bytes", "trouble", with_queue(used_bytes=1000)),
    ("evicting_policy", "warning", with_queue(evicting_policy="allkeys-lru")),
    ("odd_fields", "warning", with_queue(odd_fields=1)),
    ("redis_away", "trouble", with_queues(queue_of(0), queue_of(1, None, trouble="redis at redis-1: no answer"))),
    ("no_sender", "trouble", with_queues(queue_of(0, msgspec.structs.replace(QUEUE, waiting=1), lease=None))),
    (
        "queue_share",
        "warning",
        with_queues(*(queue_of(each, share=share) for each, share in enumerate((0.7, 0.2, 0.1)))),
    ),
    ("credentials_refused", "trouble", after_attempt("http_401")),
    ("credentials_refused", "trouble", after_attempt("http_404")),
    ("host_prevents_delivery", "trouble", after_attempt("host")),
    ("retrying", "warning", after_attempt("http_5xx")),
    ("retrying", "warning", after_attempt("http_429")),
    ("retrying", "warning", after_attempt("timeout")),
    ("account_unbalanced", "trouble", with_part("events", balanced=False)),
    ("corrupt", "warning", with_part("events", corrupt=1)),
    ("lost_with_redis", "warning", with_part("events", lost=1)),
    ("dead_letters", "warning", with_part("dead_letters", batches=1, events=20)),
    ("dead_letters_near_max_bytes", "warning", with_part("dead_letters", used_bytes=80, max_bytes=100)),
]


def found_in(shown: Snapshot, settings: Settings, refused: Mapping[str, int] | None = None) -> list[tuple[str, str]]:
    """Return codes and levels of the troubles in a snapshot."""
    recent = Recent(refused or {}, refused or {})
    return [(each.code, each.level) for each in findings.of(shown, settings, recent)]


def test_a_pipe_that_works_has_no_trouble(well: Snapshot, settings: Settings) -> None:
    """The sentence on top says so."""
    shown = flow.of(well, settings)

    assert (shown.findings, shown.conclusion.level) == ([], "ok")
    assert shown.conclusion.text.startswith("All is well")


@pytest.mark.parametrize(("code", "level", "change"), TROUBLES, ids=[f"{code}-{level}" for code, level, _ in TROUBLES])
def test_each_trouble_is_found_alone(
    code: str, level: str, change: Callable[[Snapshot], Snapshot], well: Snapshot, settings: Settings
) -> None:
    """It is said in one sentence, with one that says how to mend it."""
    (finding,) = findings.of(change(well), settings)

    assert (finding.code, finding.level) == (code, level)
    for sentence in (finding.text, finding.fix):
        assert re.fullmatch(r"[A-Z0-9][^\n]*\.", sentence)
    assert flow.of(change(well), settings).conclusion.text == finding.text


@pytest.mark.parametrize(
    "change",
    [
        with_ring(7),
        with_ring(0, flusher_pid=None),
        with_ring(heartbeat_age_s=4.9),
        with_queue(oldest_job_age_s=299.0),
        with_queue(waiting=5, active=5),
        with_queue(used_bytes=799),
        with_queue(max_bytes=None, used_bytes=1 << 40),
        with_queue(lanes=[LaneState("0/4", 3, 0), LaneState("", 1, 0)]),
        after_attempt("http_2xx"),
        after_attempt("http_400"),
        after_attempt("http_5xx", jobs=0),
        after_attempt("host", jobs=0),
    ],
)
def test_what_is_usual_is_no_trouble(
    change: Callable[[Snapshot], Snapshot], well: Snapshot, settings: Settings
) -> None:
    """A false alarm teaches people to look away."""
    assert found_in(change(well), settings) == []


def test_several_senders_take_no_lease(well: Snapshot, settings: Settings) -> None:
    """So a missing lease says nothing there."""
    several = msgspec.structs.replace(settings, is_multi_processor=True)

    assert found_in(without_sender(well), several) == []


def test_a_trouble_of_several_queues_is_one_finding(well: Snapshot, settings: Settings) -> None:
    """It names the queue where it is worst with its server, and then the others."""
    paused = [msgspec.structs.replace(QUEUE, paused=True, waiting=jobs) for jobs in (0, 3, 0)]
    shown = with_queues(*map(queue_of, range(3), paused))(well)

    (finding,) = findings.of(shown, settings)

    assert (finding.code, finding.level) == ("paused", "trouble")
    assert finding.text == (
        "Queue rudder-1 at redis-1:6379/0: The queue is paused, and 3 jobs wait; "
        "the same is true of the queues rudder-0 and rudder-2."
    )


def test_queues_that_are_away_are_named_by_server(well: Snapshot, settings: Settings) -> None:
    """The others are still shown, and their sum is that of the queue."""
    away = [queue_of(each, None, trouble=f"redis at redis-{each % 2}: timeout") for each in range(3)]
    shown = with_queues(*away, queue_of(3, msgspec.structs.replace(QUEUE, waiting=4)))(well)

    assert [each.text for each in findings.of(shown, settings)] == [
        f"The {which} events count as queued, or as in the ring: {reason}: timeout."
        for which, reason in (
            ("queues rudder-0 and rudder-2 in Redis cannot be read, so that their", "redis at redis-0"),
            ("queue rudder-1 in Redis cannot be read, so that its", "redis at redis-1"),
        )
    ]
    found = flow.of(shown, settings)
    assert found.queue_state is not None
    assert found.queue_state.waiting == 4
    assert [(each.number, each.queues, each.away, each.is_current) for each in found.generations] == [
        (0, 1, 0, False),
        (1, 4, 3, True),
    ]
    assert [(each.prefix, each.waiting, each.trouble) for each in found.queues[1:]] == [
        *((each.prefix, None, each.trouble) for each in away),
        ("rudder-3", 4, ""),
    ]


def test_a_queue_that_waits_for_an_earlier_one_lacks_no_sender(well: Snapshot, settings: Settings) -> None:
    """Its sender must wait as well."""
    jobs = msgspec.structs.replace(QUEUE, waiting=1)
    early = msgspec.structs.replace(HOME, state=jobs, is_current=False)
    shown = msgspec.structs.replace(well, queues=[early, queue_of(0, jobs, lease=None)])

    assert found_in(shown, settings) == []
    drained = msgspec.structs.replace(shown, queues=[msgspec.structs.replace(early, state=QUEUE), shown.queues[1]])
    assert found_in(drained, settings) == [("no_sender", "trouble")]
    # A Node SDK goes on adding to the earlier queue after it was drained.
    opened = msgspec.structs.replace(shown, queues=[early, msgspec.structs.replace(shown.queues[1], is_open=True)])
    assert found_in(opened, settings) == [("no_sender", "trouble")]


def test_several_queues_need_a_manager_of_senders(well: Snapshot, settings: Settings) -> None:
    """A sender of one of them could deliver events ahead of earlier ones."""
    shown = with_queues(queue_of(0, msgspec.structs.replace(QUEUE, waiting=1), lease=None))(well)

    (several,) = findings.of(shown, settings)
    (one,) = findings.of(without_sender(well), settings)

    assert several.fix.startswith("Start `python -m rudderpipe.sender --all` if none runs; ")
    assert one.fix.startswith("Start a sender. ")


@pytest.mark.parametrize(("used_bytes", "part"), [(1, "less than 1%"), (500, "50%")])
def test_a_spill_with_events_is_never_at_0_percent(
    well: Snapshot, settings: Settings, used_bytes: int, part: str
) -> None:
    """Otherwise the number contradicts the events beside it."""
    spill = SpillState(1, used_bytes, 1000, "/disk", rings_gone=0, trouble="")

    (finding,) = findings.of(msgspec.structs.replace(well, spill=spill), settings)

    assert finding.text == f"1 event waits in the spill, which takes {part} of max_spill_bytes."


@pytest.mark.parametrize(("down_s", "held"), [(0.0, 0), (3.0, 6)])
def test_events_that_their_queues_have_already_are_named_while_another_queue_is_away(
    well: Snapshot, settings: Settings, down_s: float, held: int
) -> None:
    """The ring holds them until every queue has its part, and the account shows them as delivered."""
    shown = with_part("events", in_ring=2)(with_ring(8, sink_down_s=down_s)(with_queues(queue_of(0))(well)))

    ring = flow.of(shown, settings).ring
    assert ring is not None
    assert (ring.events, ring.in_queues_too) == (8, held)
    lines = status.lines_of(shown, settings, [])
    assert [line for line in lines if "in their queues already" in line] == [f"          {status.of_held(6)}"] * (
        held > 0
    )


def test_a_queue_whose_lease_is_free_has_no_sender(well: Snapshot, settings: Settings) -> None:
    """The report of a sender that has ended is kept for half a minute. Several senders of a queue have no lease."""
    ended = queue_of(0, QUEUE, lease=None, senders=[OWN])
    shown = msgspec.structs.replace(well, queues=[HOME, ended])
    several = msgspec.structs.replace(settings, is_multi_processor=True)

    assert flow.rows(shown, settings)[1].sender is None
    assert flow.rows(shown, several)[1].sender == flow.Holder("web-1", 811)


def test_an_equal_share_is_no_trouble(well: Snapshot, settings: Settings) -> None:
    """Up to twice an equal share comes by chance, if there are few users."""
    shown = with_queues(*(queue_of(each, share=share) for each, share in enumerate((0.5, 0.3, 0.1, 0.1))))(well)

    assert found_in(shown, settings) == []


def test_shares_are_those_of_the_last_five_minutes() -> None:
    """At the first look, and of too few events, they are those of all."""
    meter = ShareMeter()

    def shares(at_s: float, *added: int) -> list[float | None]:
        queues = [queue_of(each, msgspec.structs.replace(QUEUE, events_delivered=n)) for each, n in enumerate(added)]
        return [each.share for each in meter.note(queues, at_s)]

    assert shares(0, 50, 50) == [None, None]
    assert shares(5, 500, 500) == [0.5, 0.5]
    assert shares(10, 500, 650) == [450 / 1050, 600 / 1050]
    assert shares(309, 500, 850) == [450 / 1250, 800 / 1250]
    assert shares(320, 500, 1050) == [0.0, 1.0]
    assert shares(321, 400, 1200) == [0.25, 0.75]
    assert [each.share for each in meter.note([queue_of(0), queue_of(1, None)], 322)] == [None, None]


def test_the_worst_trouble_comes_first(well: Snapshot, settings: Settings) -> None:
    """The sentence on top is the worst one, with the number of the others."""
    shown = flow.of(with_part("events", balanced=False)(with_queue(failed=1)(well)), settings)

    assert [each.code for each in shown.findings] == ["account_unbalanced", "failed_jobs"]
    assert (shown.conclusion.level, shown.conclusion.text) == (
        "trouble",
        f"{shown.findings[0].text} (1 more below)",
    )


@pytest.mark.parametrize("reason", at.REFUSALS)
def test_recent_refusals_are_troubles(reason: str, well: Snapshot, settings: Settings) -> None:
    """Except what the application dropped on purpose; what is wrong with an event is only a warning."""
    level = "warning" if reason in ("invalid", "closed") else "trouble"
    expected = [] if reason == "dropped" else [(f"refused_{reason}", level)]

    assert found_in(well, settings, {reason: 2}) == expected
    assert found_in(well, settings, {reason: 0}) == []


def test_refusals_that_are_over_are_a_note_behind_what_is_wrong_now(well: Snapshot, settings: Settings) -> None:
    """The first sentence is about a trouble of now."""
    shown = with_queue(failed=1)(well)

    def codes(**now: int) -> list[tuple[str, str]]:
        return [(each.code, each.level) for each in findings.of(shown, settings, Recent({"full": 9}, now))]

    assert codes(full=1) == [("refused_full", "trouble"), ("failed_jobs", "warning")]
    assert codes(full=0) == codes() == [("failed_jobs", "warning"), ("refused_full", "warning")]
    (over,) = findings.of(well, settings, Recent({"full": 9}))
    assert over.text == (
        "9 events were refused in the last 5 minutes, because the ring was full, and none in the last 30 s."
    )


def test_a_refusal_goes_on_for_half_a_minute(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Then it is over, and a note until five minutes have passed."""
    producer, watch = producer_of(ring, clock), Watch(settings, Reader(settings, clock))
    producer.append(b"{}")
    watch.read()
    producer.count_refused("full")
    levels = []
    for _ in range(31):
        clock.sleep(10)
        levels.append([each.level for each in watch.read().findings if each.code == "refused_full"])

    assert levels == [["trouble"]] * 3 + [["warning"]] * 27 + [[]]


def test_dead_letters_are_sent_again_only_while_a_flusher_runs(well: Snapshot, settings: Settings) -> None:
    """Nothing else sends them."""
    letters = with_part("dead_letters", batches=2, waiting=2, events=40)

    assert "; 2 are sent again when the data plane is back." in findings.of(letters(well), settings)[0].text
    for alone in (with_ring(0, flusher_pid=None)(well), msgspec.structs.replace(well, rings=[])):
        shown = letters(alone)
        assert "; 2 are sent again once a flusher runs, and none does." in findings.of(shown, settings)[0].text
        assert "2 of the batches are sent again once a flusher runs, and none does" in "".join(
            status.lines_of(msgspec.structs.replace(shown, redis=""), settings, [])
        )


def test_a_killed_sender_is_named_before_its_lease_lapses(well: Snapshot, settings: Settings) -> None:
    """While no job waits, it is no trouble."""
    dead = msgspec.structs.replace(LEASE, is_dead=True)

    assert found_in(of_home(well, lease=dead), settings) == []
    shown = of_home(with_queue(waiting=1)(well), lease=dead)
    (finding,) = findings.of(shown, settings)
    assert finding.text == "1 job waits in Redis, and its sender, pid 811 on web-1, has ended."
    assert flow.of(shown, settings).sender is None
    assert status.code_of(shown, settings) == 1


def test_an_account_of_the_queue_is_not_called_that_of_a_pipe_without_a_ring(
    well: Snapshot, settings: Settings
) -> None:
    """Other pipes and hosts may have filled the queue."""
    alone = msgspec.structs.replace(well, ring=None, rings=[])

    shown = [flow.of(each, settings).account.of_queues for each in (well, alone)]
    texts = ["\n".join(status.lines_of(each, settings, [])) for each in (well, alone)]

    assert shown == [False, True]
    assert ["account   that of the queue" in text for text in texts] == [False, True]
    assert [status_json.of(each, settings)["is_account_of_queues"] for each in (well, alone)] == [False, True]


def test_every_heading_is_in_the_runbook(well: Snapshot, settings: Settings) -> None:
    """So a link to it leads somewhere."""
    headings = re.findall(r"^## Rudderpipe(\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    named = {each.runbook for _, _, change in TROUBLES for each in findings.of(change(well), settings)}
    refused = dict.fromkeys(at.REFUSALS, 1)
    named |= {each.runbook for each in findings.of(well, settings, Recent(refused, refused))}

    assert named - {None} <= set(headings)


def test_the_json_of_a_flow(well: Snapshot, settings: Settings) -> None:
    """The names are those of the page's contract, and what is not there is null."""
    queued = msgspec.structs.replace(settings, redis="redis://localhost:6379/0")
    shown = msgspec.json.decode(msgspec.json.encode(flow.of(well, queued)))

    assert shown["verdict"]["level"] == "ok"
    assert (shown["mode"], shown["queue"], shown["redis"]) == ("redis", HOME.name, "localhost:6379/0")
    assert shown["data_plane"] == settings.endpoint
    assert (shown["producers"]["processes"], shown["producers"]["accepted"], shown["producers"]["refused"]) == (1, 1, 0)
    assert list(shown["producers"]["refused_by_reason"]) == list(at.REFUSALS)
    ring = shown["ring"]
    assert (ring["rings"], ring["events"], ring["capacity"], ring["fill"], ring["left"]) == (1, 1, 10, 0.1, 0)
    assert ring["oldest_age_s"] == pytest.approx(0.4, abs=0.1)
    assert (ring["flusher_pid"], ring["heartbeat_age_s"], ring["sink_down_s"]) == (7, 0.1, 0.0)
    assert shown["queue_state"] == {
        name: getattr(QUEUE, name) for name in flow.QueueFlow.__struct_fields__ if name != "lanes"
    } | {"lanes": []}
    holder = {"host": "web-1", "pid": 811, "senders": 1, "number": 3, "lapses_in_s": 4.5}
    assert shown["sender"] == {**holder, "report": None}
    assert (shown["account"]["accepted"], shown["account"]["in_ring"], shown["account"]["balanced"]) == (1, 1, True)

    shown = msgspec.json.decode(msgspec.json.encode(flow.of(without_redis(well), settings)))

    assert (shown["queue"], shown["queue_state"], shown["sender"]) == (None, None, None)
    assert shown["queue_trouble"] == "redis cannot be used: timeout."


def test_the_report_of_the_sender_with_the_lease(well: Snapshot, settings: Settings) -> None:
    """A sender that had it before may have left one too."""
    other = Sender("web-2", 811, REPORT)
    before, now = (of_home(well, senders=senders) for senders in ([other], [other, OWN]))

    shown = [flow.of(each, settings).sender for each in (before, now)]

    assert [each and each.report for each in shown] == [None, REPORT]


def test_the_reports_of_several_senders_are_summed(well: Snapshot, settings: Settings) -> None:
    """They have no lease, and the place shown is that of the one that reported last."""
    several = msgspec.structs.replace(settings, is_multi_processor=True)
    other = msgspec.structs.replace(
        REPORT, attempts={"delivered": 2, "retry": 5}, retry_in_s=4.0, last_class="http_5xx"
    )
    both = of_home(well, lease=None, senders=[Sender("web-2", 9, other), OWN])

    shown = flow.of(both, several).sender

    assert shown is not None
    assert (shown.host, shown.pid, shown.senders, shown.number, shown.lapses_in_s) == ("web-2", 9, 2, None, None)
    assert shown.report is not None
    assert (shown.report.attempts["delivered"], shown.report.attempts["retry"]) == (3, 5)
    assert shown.report.attempt_s_buckets == [(0.1, 0), (1.0, 2), (None, 2)]
    assert (shown.report.delivered_events, shown.report.retry_in_s) == (40, 4.0)
    assert (shown.report.last_class, shown.report.classes) == ("http_5xx", {"http_2xx": 2})
    assert flow.of(of_home(both, senders=[]), several).sender is None


def test_mostly_retries_are_a_trouble(well: Snapshot, settings: Settings) -> None:
    """Also right after an attempt that delivered; of a few attempts no share is formed."""
    shown = of_home(well, senders=[OWN])

    def codes(**attempts: int) -> list[str]:
        return [each.code for each in findings.of(shown, settings, Recent(attempts=attempts))]

    assert codes(delivered=2, retry=3) == codes(delivered=2, retry=1, blocked=2) == ["mostly_retries"]
    assert codes(delivered=3, retry=3) == codes(delivered=1, retry=3) == []


def test_attempts_of_another_sender_are_no_growth(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Its totals begin at 0 again."""
    reader = Reader(settings, clock)
    watch = Watch(settings, reader)

    def with_report(report: SenderReport) -> PipeQueue:
        return msgspec.structs.replace(HOME, senders=[Sender("web-1", 811, report)])

    def codes(retry: int, delivered: int) -> list[str]:
        report = msgspec.structs.replace(REPORT, attempts={"retry": retry, "delivered": delivered})
        view = reader.read()
        shown = msgspec.structs.replace(view.snapshot, queues=[with_report(report)])
        return [each.code for each in watch.of(msgspec.structs.replace(view, snapshot=shown)).findings]

    assert codes(100, 0) == []
    assert codes(105, 1) == ["mostly_retries"]
    assert codes(2, 3) == []
    assert codes(5, 1) == ["mostly_retries"]


def test_a_pipe_without_a_ring(settings: Settings, clock: FakeClock) -> None:
    """It is no trouble, and the sentence does not say that all is well with events."""
    shown = flow.of(snapshot.take(settings, clock), settings)

    assert (shown.ring, shown.findings, shown.producers.processes) == (None, [], 0)
    assert shown.conclusion.text.startswith("No event")


def test_a_refusal_is_a_trouble_for_five_minutes(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """What was refused before the first look, or long ago, is only in the totals."""
    producer, reader = producer_of(ring, clock), Reader(settings, clock)
    watch = Watch(settings, reader)
    producer.append(b"{}")  # so that it has a slot, which counts
    producer.count_refused("invalid")

    def refused() -> tuple[list[str], int]:
        shown = watch.read()
        return [each.code for each in shown.findings if "refused" in each.code], shown.producers.refused

    assert refused() == ([], 1)
    producer.count_refused("invalid")
    clock.sleep(1)
    assert refused() == (["refused_invalid"], 2)
    for _ in range(29):
        clock.sleep(10)
        assert refused() == (["refused_invalid"], 2)
    clock.sleep(20)
    assert refused() == ([], 2)
