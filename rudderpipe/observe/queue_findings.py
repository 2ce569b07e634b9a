"""What a snapshot shows to be wrong with the queues, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from rudderpipe.log_text import counted
from rudderpipe.observe import shares
from rudderpipe.observe.finding import FILLING, Finding, duration, wait
from rudderpipe.observe.pipe_queues import LeaseState, PipeQueue, QueueState
from rudderpipe.observe.snapshot import Snapshot
from rudderpipe.settings import Settings

OLD_S, TOO_OLD_S = 300.0, 3000.0
STARTS_ALL = "Start `python -m rudderpipe.sender --all` if none runs; one that runs takes the queue over after lease_ms"
"""What starts the senders of several queues. A sender of one of them could deliver events ahead of earlier ones."""


def of_those_that_are_away(found: Snapshot) -> Iterator[Finding]:
    """Yield a finding for each reason why queues cannot be read."""
    away = [each for each in found.queues if each.trouble]
    for trouble in dict.fromkeys(each.trouble for each in away):
        prefixes = [each.prefix for each in away if each.trouble == trouble]
        which = "The queue" if not found.generations else f"The {_named(prefixes)}"
        whose = "its" if len(prefixes) == 1 else "their"
        others = f", so that {whose} events count as queued, or as in the ring" if len(found.queues) > 1 else ""
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


def of_queues(found: Snapshot, settings: Settings) -> Iterator[Finding]:
    """Yield the troubles of the queues that can be read; one that several queues have is one finding."""
    lacking = found.queues_without_sender(settings)
    each = [
        (queue, finding)
        for queue in found.queues
        if queue.state is not None
        for finding in _of_queue(
            queue.state, queue.lease, lacks_sender=queue in lacking, has_others=bool(found.generations)
        )
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


def _of_queue(
    queue: QueueState, lease: LeaseState | None, *, lacks_sender: bool, has_others: bool
) -> Iterator[Finding]:
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
        lacks = f"its sender, pid {lease.pid} on {lease.host}, has ended" if lease else "no sender has the queue"
        yield Finding(
            "trouble",
            "no_sender",
            f"{counted(jobs, 'job')} {wait(jobs)} in Redis, and {lacks}.",
            f"{STARTS_ALL if has_others else 'Start a sender'}. The log of the last sender says why it ended, unless "
            "it was killed or stopped (SIGSTOP).",
            "NoActiveSender",
        )
    if queue.paused:
        yield Finding(
            "trouble" if jobs else "warning",
            "paused",
            f"The queue is paused, and {counted(jobs, 'job')} {wait(jobs)}.",
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
            f"{wait(queue.failed)} for a decision.",
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
