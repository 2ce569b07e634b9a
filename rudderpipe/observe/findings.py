"""What a snapshot shows to be wrong, in words: the troubles of a pipe, and how to mend each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from rudderpipe.delivery.attempts import HOST, NO_STATUS
from rudderpipe.log_text import counted
from rudderpipe.observe import account, shares
from rudderpipe.observe.pipe_queues import PipeQueue, QueueState
from rudderpipe.observe.snapshot import DeadLetterState, RingState, Snapshot
from rudderpipe.observe.spill_state import SpillState
from rudderpipe.ring.counters import Counters
from rudderpipe.settings import Settings

Level = Literal["warning", "trouble"]

RECENT_S = 300.0
"""How long a refusal or a failed attempt counts as a trouble of now."""
FILLING = 0.8
"""The share of a ring, or of ``max_queue_bytes``, from which it is nearly full."""
SILENT_S = 5.0
"""A flusher without a sign of life for so long does not work. It gives several a second."""
DOWN_S = 15.0
OLD_S, TOO_OLD_S = 300.0, 3000.0
FEWEST_ATTEMPTS = 5
"""A share of fewer attempts says nothing."""
REPEATED = frozenset(("http_429", "http_5xx", *NO_STATUS))
"""The classes of attempts that are made again, except ``HOST``."""
INTENDED = frozenset(("dropped", "invalid", "closed"))
"""The reasons that the application itself brings about. For every other reason an event is lost that was good."""
SINKS = {
    "redis": ("add events to the queue", " --only redis"),
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


class Finding(msgspec.Struct, frozen=True):
    """One trouble of a pipe.

    ``code`` names the trouble for programs. ``runbook`` is the heading of docs/runbook.md, and the name of the alert,
    without ``Rudderpipe``; None where the page has no heading.
    """

    level: Level
    code: str
    text: str
    """What is wrong, in one sentence."""
    fix: str
    """How to mend it, in one sentence."""
    runbook: str | None = None


class Recent(NamedTuple):
    """What was counted within the last ``RECENT_S``. A single look at a pipe knows nothing of that."""

    refused: Mapping[str, int] = {}
    """Number of refused events, by reason."""
    attempts: Mapping[str, int] = {}
    """Number of attempts, by what became of them."""


def of(found: Snapshot, settings: Settings, recent: Recent | None = None) -> list[Finding]:
    """Return the troubles that a snapshot shows, the worst first. Refusals are found only with ``recent``."""
    recent = recent or Recent()
    troubles = [
        *_of_queues_that_are_away(found),
        *of_rings(found.rings, "redis" if found.redis else "plane"),
        *_of_refusals(recent.refused),
        *_of_queues(found, settings),
        *_of_attempts(found, settings, recent.attempts),
        *_of_account(found),
        *_of_dead_letters(found.dead_letters),
        *_of_spill(found.spill),
    ]
    return sorted(troubles, key=lambda each: each.level != "trouble")


def _of_queues_that_are_away(found: Snapshot) -> Iterator[Finding]:
    away = [each for each in found.queues if each.trouble]
    for trouble in dict.fromkeys(each.trouble for each in away):
        prefixes = [each.prefix for each in away if each.trouble == trouble]
        which = "The queue" if not found.generations else f"The {_named(prefixes)}"
        others = ", so that all events there count as queued" if len(found.queues) > 1 else ""
        yield Finding(
            "trouble",
            "redis_away",
            f"{which} in Redis cannot be read{others}: {trouble.rstrip('.')}.",
            "Run `rudderpipe doctor --only redis`; accepted events stay in the ring until Redis is back.",
            "SinkDown",
        )


def _named(prefixes: Sequence[str]) -> str:
    """Return the prefixes of queues as a part of a sentence."""
    *first, last = prefixes
    return f"queues {', '.join(first)} and {last}" if first else f"queue {last}"


def of_rings(rings: Sequence[RingState], sink: Literal["redis", "plane", "unknown"]) -> Iterator[Finding]:
    """Yield the troubles of a pipe's rings; ``sink`` is where the flusher hands events over."""
    ring = account.merged([each.counters for each in rings])
    if ring is None:
        return
    waiting = counted(ring.in_ring, "event")
    silent_s = max((each.heartbeat_age_s or 0.0 for each in rings if each.flusher_pid is not None), default=0.0)
    down_s = max(each.sink_down_s for each in rings)
    if any(each.is_stuck for each in rings):
        yield Finding(
            "trouble",
            "no_flusher",
            f"{waiting} {_wait(ring.in_ring)} in the ring, and no process serves it.",
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
            f"The flusher has not been able to {cannot} for {duration(down_s)}; {waiting} {_wait(ring.in_ring)} in the "
            "ring.",
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


def _of_refusals(refused: Mapping[str, int]) -> Iterator[Finding]:
    for reason, (why, fix) in REFUSED.items():
        number = refused.get(reason, 0)
        if number > 0:
            yield Finding(
                "warning" if reason in INTENDED else "trouble",
                f"refused_{reason}",
                f"{counted(number, 'event')} {'was' if number == 1 else 'were'} refused in the last "
                f"{RECENT_S / 60:.0f} minutes, {why}.",
                fix,
                None if reason in INTENDED else "EventsRefused",
            )


def _of_queues(found: Snapshot, settings: Settings) -> Iterator[Finding]:
    """Yield the troubles of the queues; one that several queues have is one finding."""
    lacking = found.queues_without_sender(settings)
    each = [
        (queue, finding)
        for queue in found.queues
        if queue.state is not None
        for finding in _of_queue(queue.state, lacks_sender=queue in lacking)
    ]
    if not found.generations:
        yield from (finding for _, finding in each)
        return
    for code in dict.fromkeys(finding.code for _, finding in each):
        yield _joined([pair for pair in each if pair[1].code == code])
    yield from _of_shares(found.queues)


def _joined(same: Sequence[tuple[PipeQueue, Finding]]) -> Finding:
    """Return one finding for the same trouble of several queues: the worst, and the names of the others."""
    (queue, worst), *others = sorted(same, key=lambda pair: pair[1].level != "trouble")
    also = f"; the same is true of the {_named([other.prefix for other, _ in others])}" if others else ""
    text = f"Queue {queue.prefix} at {queue.place}: {worst.text.removesuffix('.')}{also}."
    return msgspec.structs.replace(worst, text=text)


def _of_shares(queues: Iterable[PipeQueue]) -> Iterator[Finding]:
    current = [each for each in queues if each.is_current]
    for each in current:
        if each.share is not None and shares.is_uneven(each.share, len(current)):
            yield Finding(
                "warning",
                "queue_share",
                f"Queue {each.prefix} gets {each.share:.0%} of the events; an equal share is {1 / len(current):.0%}.",
                "Run `rudderpipe doctor --only redis`, which looks for a user with very many events.",
                "QueueShare",
            )


def _of_queue(queue: QueueState, *, lacks_sender: bool) -> Iterator[Finding]:
    jobs = queue.waiting + queue.active
    if queue.other_plane:
        yield Finding(
            "trouble",
            "other_plane",
            f"The jobs of the queue are for another data plane, {queue.other_plane}.",
            "Give this pipe a queue_name of its own, or see `rudderpipe queue`.",
            "NothingDelivered",
        )
    if lacks_sender:
        yield Finding(
            "trouble",
            "no_sender",
            f"{counted(jobs, 'job')} {_wait(jobs)} in Redis, and no sender has the queue.",
            "Start a sender; the log of the last one says why it ended, unless it was killed or stopped (SIGSTOP).",
            "NoActiveSender",
        )
    if queue.paused:
        yield Finding(
            "trouble" if jobs else "warning",
            "paused",
            f"The queue is paused, and {counted(jobs, 'job')} {_wait(jobs)}.",
            "Run `rudderpipe queue --resume`, or resume it where it was paused.",
            "NothingDelivered",
        )
    yield from _of_age(queue)
    yield from _of_lanes(queue)
    if queue.failed:
        yield Finding(
            "warning",
            "failed_jobs",
            f"{counted(queue.failed, 'job')} with {counted(queue.events_failed, 'event')} failed and "
            f"{_wait(queue.failed)} for a decision.",
            "See `rudderpipe failed list`; then retry or delete the jobs.",
            "JobsFailed",
        )
    if queue.max_bytes and queue.used_bytes >= FILLING * queue.max_bytes:
        yield Finding(
            "trouble" if queue.used_bytes >= queue.max_bytes else "warning",
            "queue_near_max_bytes",
            f"The jobs take {queue.used_bytes / queue.max_bytes:.0%} of max_queue_bytes; above it events stay in the "
            "ring.",
            "Deliver faster, delete old failed jobs, or raise max_queue_bytes if Redis has the memory.",
            "QueueNearBudget",
        )
    if queue.evicting_policy:
        yield Finding(
            "warning",
            "evicting_policy",
            f"Redis may evict queued events, because its maxmemory-policy is {queue.evicting_policy}.",
            "Set maxmemory-policy to noeviction.",
        )
    if queue.odd_fields:
        yield Finding(
            "warning",
            "odd_fields",
            f"Another program has written {counted(queue.odd_fields, 'field')} of the account, and they count as 0.",
            "Find the program that writes into rudderpipe's keys.",
            "AccountUnbalanced",
        )


def _of_age(queue: QueueState) -> Iterator[Finding]:
    age_s = queue.oldest_job_age_s
    if age_s is not None and age_s > OLD_S:
        is_too_old = age_s > TOO_OLD_S
        beside = ", and the server recognizes a repeated event only for an hour" if is_too_old else ""
        yield Finding(
            "trouble" if is_too_old else "warning",
            "job_too_old" if is_too_old else "job_old",
            f"The oldest job has waited for {duration(age_s)}{beside}.",
            "Look whether the data plane is away or slow; larger requests or lanes raise the rate.",
            "DedupWindowInDanger" if is_too_old else "BacklogOld",
        )


def _of_lanes(queue: QueueState) -> Iterator[Finding]:
    retrying = [each for each in queue.lanes if each.lane and each.retrying]
    if retrying:
        names = ", ".join(each.lane for each in retrying)
        behind = any(not each.lane for each in queue.lanes[1:])
        waits = "; the jobs without a lane, and all behind them, wait for it" if behind else ""
        yield Finding(
            "warning",
            "lanes_blocked",
            f"{'Lane' if len(retrying) == 1 else 'Lanes'} {names} must send jobs again{waits}.",
            "The sender's log has the reason.",
            "Retrying",
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


def _of_dead_letters(letters: DeadLetterState) -> Iterator[Finding]:
    if letters.batches:
        again = f"; {letters.waiting:,} are sent again when the data plane is back" if letters.waiting else ""
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


def _of_spill(spill: SpillState | None) -> Iterator[Finding]:
    if spill is not None and spill.used_bytes:
        share = spill.used_bytes / spill.max_bytes
        name, alert = ("spill_filling", "SpillFilling") if share >= FILLING else ("spill_used", "SinkDown")
        waiting = f"{counted(spill.events, 'event')} {_wait(spill.events)}"
        said = f"{waiting} in the spill, which takes {share:.0%} of max_spill_bytes."
        fix = "Run `rudderpipe doctor --only redis`; a queue gets these events first when it is back."
        yield Finding("warning", name, said, fix, alert)


def duration(seconds: float) -> str:
    """Return a duration in words: ``0.4 s``, ``12 s``, ``5 min``, ``3 h``, ``3 days``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, noun, below in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if round(seconds / size) < below:
            return f"{seconds / size:.0f} {noun}"
    return f"{seconds / 86_400:.0f} days"


def _wait(number: int) -> str:
    return "waits" if number == 1 else "wait"
