"""What a snapshot shows to be wrong, in words: the troubles of a pipe, and how to mend each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from rudderpipe.delivery.attempts import HOST, NO_STATUS
from rudderpipe.log_text import counted
from rudderpipe.observe import account, queue_findings
from rudderpipe.observe.finding import FILLING, Finding, duration, wait
from rudderpipe.observe.snapshot import RingState, Snapshot
from rudderpipe.observe.spill_state import SpillState
from rudderpipe.ring.counters import Counters
from rudderpipe.settings import Settings

RECENT_S = 300.0
"""How long a refusal or a failed attempt counts as a trouble of now."""
NOW_S = 30.0
"""How long refusals go on after the last one. From then on they are a note, behind what is wrong now."""
SILENT_S = 5.0
"""A flusher without a sign of life for so long does not work. It gives several a second."""
DOWN_S = 15.0
FEWEST_ATTEMPTS = 5
"""A share of fewer attempts says nothing."""
REPEATED = frozenset(("http_429", "http_5xx", *NO_STATUS))
"""The classes of attempts that are made again, except ``HOST``."""
SHOWN_SHARE = 0.005
"""The least share that does not round to 0%."""
INTENDED = frozenset(("dropped", "invalid", "closed"))
"""The reasons that the application itself brings about. For every other reason an event is lost that was good."""
SINKS = {
    "redis": ("add events to the queue", " --only redis"),
    "queues": ("add events to one of the queues", " --only redis"),
    "plane": ("reach the data plane", " --only plane"),
    "unknown": ("hand events over", ""),
}
"""What a flusher cannot do while its sink is away, and the doctor's option, by the sink."""
REFUSED: dict[str, tuple[str, str]] = {
    "full": (
        "because the ring was full",
        "See why events do not leave the ring; if flusher and sink are well, raise max_internal_queue_size together "
        "with ring_bytes.",
    ),
    "no_block": (
        "because the ring had no free block",
        "See `df /dev/shm` (Docker: --shm-size); if it has room, raise ring_bytes.",
    ),
    "busy": (
        "because a process held a lock for too long",
        "Look for a stopped process, and for a host without free CPU.",
    ),
    "too_large": (
        "because they are too large",
        "Make these events smaller; the application's log names the calls.",
    ),
    "ring": ("because the shared memory cannot be used", "The application's log has the reason."),
    "no_slot": (
        "because too many processes use the pipe",
        "Give some of the processes a `pipe` of their own; the ring has 512 places.",
    ),
    "invalid": ("because they cannot be sent as they are", "The application's log names the field that is wrong."),
    "closed": ("because the client was closed", "Send no events after `shutdown`."),
}
"""Why events were refused, and how to mend it. Events that ``before_send`` or sampling drops are no trouble."""


class Recent(NamedTuple):
    """What was counted within the last ``RECENT_S``. A single look at a pipe knows nothing of that."""

    refused: Mapping[str, int] = {}
    """Number of refused events, by reason."""
    refused_now: Mapping[str, int] = {}
    """Number of these that were refused within the last ``NOW_S``."""
    attempts: Mapping[str, int] = {}
    """Number of attempts, by what became of them."""


def of(found: Snapshot, settings: Settings, recent: Recent | None = None) -> list[Finding]:
    """Return the troubles that a snapshot shows, the worst first. Refusals are found only with ``recent``."""
    recent = recent or Recent()
    troubles = [
        *queue_findings.of_those_that_are_away(found),
        *of_rings(found.rings, "queues" if found.generations else "redis" if found.redis else "plane"),
        *_of_refusals(recent.refused, recent.refused_now),
        *queue_findings.of_queues(found, settings),
        *_of_attempts(found, settings, recent.attempts),
        *_of_account(found),
        *_of_dead_letters(found),
        *of_spill(found.spill),
        *_of_refusals(recent.refused, recent.refused_now, are_over=True),
    ]
    return sorted(troubles, key=lambda each: each.level != "trouble")


def of_rings(rings: Sequence[RingState], sink: Literal["redis", "queues", "plane", "unknown"]) -> Iterator[Finding]:
    """Yield the troubles of a pipe's rings; ``sink`` is where the flusher hands events over."""
    ring = account.merged([each.counters for each in rings])
    if ring is None:
        return
    waiting = counted(ring.in_ring, "event")
    silent_s = max((each.heartbeat_age_s or 0.0 for each in rings if each.flusher_pid is not None), default=0.0)
    down_s = max(each.sink_down_s for each in rings)
    held = ring.in_ring + ring.spilled
    if any(each.is_stuck for each in rings):
        yield Finding(
            "trouble",
            "no_flusher",
            f"{counted(held, 'event')} {wait(held)} in the ring{' or its spill' * bool(ring.spilled)}, and no process "
            "serves it.",
            "Start the flusher, or run `rudderpipe drain`; the flusher's log says why it ended.",
            "NobodyDrains",
        )
    elif silent_s > SILENT_S:
        yield Finding(
            "trouble" if ring.in_ring else "warning",
            "flusher_silent",
            f"The flusher has shown no sign of life for {duration(silent_s)}.",
            "Look whether its process is stopped (SIGSTOP, a debugger) or has no CPU, and restart it.",
            "NobodyDrains",
        )
    if down_s:
        cannot, only = SINKS[sink]
        yield Finding(
            "trouble" if down_s > DOWN_S else "warning",
            "sink_down",
            f"The flusher has not been able to {cannot} for {duration(down_s)}, and the ring holds {waiting}.",
            f"Run `rudderpipe doctor{only}`; the flusher's log has the reason.",
            "SinkDown",
        )
    unconfirmed_s = max(each.unconfirmed_s for each in rings)
    if unconfirmed_s:
        yield Finding(
            "trouble" if unconfirmed_s > DOWN_S else "warning",
            "unconfirmed",
            f"Replicas of Redis have lacked events that it has taken for {duration(unconfirmed_s)}.",
            "Look whether the replicas are connected, with `rudderpipe doctor --only redis`.",
            "Unconfirmed",
        )
    full = fill(ring)
    if full >= FILLING:
        is_full = full >= 1
        state = "full, and further events are refused" if is_full else f"{full:.0%} full"
        yield Finding(
            "trouble" if is_full else "warning",
            "ring_full" if is_full else "ring_filling",
            f"The ring is {state}: {waiting} of {ring.cap:,}.",
            "See why events do not leave it; if flusher and sink are well, raise max_internal_queue_size together "
            "with ring_bytes.",
            "RingFullSoon" if is_full else "RingFilling",
        )


def fill(ring: Counters) -> float:
    """Return the share of a ring that is used, 1 for a full one: of its events or of its blocks, if that is more."""
    return max(ring.in_ring / ring.cap if ring.cap else 0.0, ring.blocks_in_use / ring.blocks if ring.blocks else 0.0)


def _of_refusals(refused: Mapping[str, int], now: Mapping[str, int], *, are_over: bool = False) -> Iterator[Finding]:
    """Yield the refusals of each reason that go on, or those that are over."""
    for reason, (why, fix) in REFUSED.items():
        number = refused.get(reason, 0)
        if number > 0 and are_over is not (now.get(reason, 0) > 0):
            over = f", and none in the last {NOW_S:.0f} s" if are_over else ""
            yield Finding(
                "warning" if are_over or reason in INTENDED else "trouble",
                f"refused_{reason}",
                f"{counted(number, 'event')} {'was' if number == 1 else 'were'} refused in the last "
                f"{RECENT_S / 60:.0f} minutes, {why}{over}.",
                fix,
                None if reason in INTENDED else "EventsRefused",
            )


def _of_attempts(found: Snapshot, settings: Settings, recent: Mapping[str, int]) -> Iterator[Finding]:
    report, queue = found.report(settings), found.queue
    if report is None or queue is None:
        return
    jobs = queue.waiting + queue.active
    last, reason = report.last_class, report.last_reason.rstrip(".")
    attempts = sum(recent.values())
    again = recent.get("retry", 0) + recent.get("blocked", 0)
    if last in ("http_401", "http_404"):
        what = "the write key" if last == "http_401" else "the source, or the path of the data plane"
        yield Finding(
            "trouble",
            "credentials_refused",
            f"The data plane refuses {what}: {reason}.",
            "Correct write_key, data_plane_url and path, restart flusher and sender, then run "
            "`rudderpipe failed retry --all --replace-write-key`.",
            "CredentialsRefused",
        )
    elif last == HOST and jobs:
        yield Finding(
            "trouble",
            "host_prevents_delivery",
            f"The sender's host cannot make an attempt: {reason}.",
            "Correct what the sender's log names; nothing is lost meanwhile.",
            "NothingDelivered",
        )
    elif last in REPEATED and jobs:
        yield Finding(
            "warning",
            "retrying",
            f"The last attempt at the data plane failed, and the same events are sent again: {reason}.",
            "See the data plane's status, its load and the way to it; nothing is lost meanwhile.",
            "Retrying",
        )
    elif attempts >= FEWEST_ATTEMPTS and again > attempts / 2:
        yield Finding(
            "warning",
            "mostly_retries",
            f"{again / attempts:.0%} of the attempts of the last {RECENT_S / 60:.0f} minutes were repeated, the last "
            f"one because of: {reason}.",
            "See the data plane's status, its load and the way to it; nothing is lost meanwhile.",
            "Retrying",
        )


def _of_account(found: Snapshot) -> Iterator[Finding]:
    if not found.events.balanced:
        yield Finding(
            "trouble",
            "account_unbalanced",
            "The account does not balance: the ring and the queue have counted different numbers of events.",
            "If it stays so for minutes, keep the output of `rudderpipe status --json` and the logs, and report it.",
            "AccountUnbalanced",
        )
    if found.events.corrupt:
        yield Finding(
            "warning",
            "corrupt",
            f"Shared memory has damaged {counted(found.events.corrupt, 'event')}.",
            f"Their bytes are in {found.dead_letters.path or 'the dead letters'}; examine the memory of this host.",
        )
    if found.events.lost:
        yield Finding(
            "warning",
            "lost_with_redis",
            f"Redis has lost data, and with it up to {counted(found.events.lost, 'event')}.",
            "Let Redis write an append-only file; `rudderpipe doctor --only redis` checks it.",
        )


def sent_again(found: Snapshot) -> str:
    """Return what becomes of the dead letters that wait, in words."""
    if any(ring.flusher_pid is not None for ring in found.rings):
        return "are sent again when the data plane is back"
    return "are sent again once a flusher runs, and none does"


def _of_dead_letters(found: Snapshot) -> Iterator[Finding]:
    letters = found.dead_letters
    if letters.batches:
        again = f"; {letters.waiting:,} {sent_again(found)}" if letters.waiting else ""
        yield Finding(
            "warning",
            "dead_letters",
            f"{counted(letters.batches, 'batch')} with {counted(letters.events, 'event')} failed and "
            f"{'is' if letters.batches == 1 else 'are'} kept as dead letters{again}.",
            "See `rudderpipe failed list`; then retry or delete them.",
            "JobsFailed",
        )
    if letters.max_bytes and letters.used_bytes >= FILLING * letters.max_bytes:
        yield Finding(
            "warning",
            "dead_letters_near_max_bytes",
            f"The dead letters take {letters.used_bytes / letters.max_bytes:.0%} of max_spool_bytes.",
            "Retry or delete them, or raise max_spool_bytes if the disk has the room.",
            "JobsFailed",
        )


def of_spill(spill: SpillState | None) -> Iterator[Finding]:
    """Yield what is wrong with the spill."""
    if spill is not None and spill.trouble:
        said = f"The files of the spill cannot be read, or not removed: {spill.trouble}."
        fix = "Mend the disk, or let the flusher's user own the files; the flusher tries again each second."
        yield Finding("trouble", "spill_disk", said, fix, "SpillFilling")
    if spill is not None and spill.used_bytes:
        share = spill.used_bytes / spill.max_bytes
        name, alert = ("spill_filling", "SpillFilling") if share >= FILLING else ("spill_used", "SinkDown")
        waiting = f"{counted(spill.events, 'event')} {wait(spill.events)}"
        gone = f", and events of {counted(spill.rings_gone, 'gone ring')} besides" if spill.rings_gone else ""
        part = f"{share:.0%}" if share >= SHOWN_SHARE else "less than 1%"
        said = f"{waiting} in the spill, which takes {part} of max_spill_bytes{gone}."
        fix = "Run `rudderpipe doctor --only redis`; a queue gets these events first when it is back."
        yield Finding("warning", name, said, fix, alert)
