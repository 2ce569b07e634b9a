"""The command ``rudderpipe status``, which shows the ring, the queue, and whether the account balances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from rudderpipe import log_text
from rudderpipe.cli import rings
from rudderpipe.log_text import counted
from rudderpipe.observe import findings, flow, host_rings, snapshot, status_json
from rudderpipe.observe.active_lanes import LaneState
from rudderpipe.observe.finding import duration
from rudderpipe.observe.flow import QueueRow
from rudderpipe.observe.host_rings import HostRing
from rudderpipe.observe.pipe_queues import GenerationState, QueueState
from rudderpipe.observe.snapshot import Snapshot
from rudderpipe.process import runtime_dir
from rudderpipe.ring.counters import Counters
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE
from rudderpipe.settings import Settings


def status(settings: Settings, *, as_json: bool, producers: bool) -> int:
    """Print the status of the pipe, and return an exit code."""
    found = snapshot.take(settings)
    others = [] if found.rings else host_rings.visible(settings.runtime_dir)
    if as_json:
        print(msgspec.json.encode(status_json.of(found, settings, others)).decode())
    else:
        log = runtime_dir.existing_log(settings)
        note = [f"log       {log}"] if log else []
        lines = [*lines_of(found, settings, others), *note, *_findings(found, settings)]
        lines += _producers(found.ring) if producers and found.ring else []
        print(log_text.lines("\n".join(lines)))
    return code_of(found, settings)


def code_of(found: Snapshot, settings: Settings) -> int:
    """Return the exit code of a command that shows a pipe."""
    if found.queue_trouble:
        return EXIT_UNAVAILABLE
    is_well = found.events.balanced and not found.is_stuck and not found.lacks_sender(settings)
    return EXIT_OK if is_well else EXIT_FAILED


def lines_of(found: Snapshot, settings: Settings, others: Sequence[HostRing]) -> list[str]:
    """Return the lines that the command prints; ``others`` are the host's rings when the pipe has none."""
    lines = [f"pipe      {found.pipe}", *_ages(found), *_ring(found, others)]
    if found.spill is not None:
        spill = found.spill
        gone = f", with events of {counted(spill.rings_gone, 'gone ring')}" if spill.rings_gone else ""
        lines.append(f"spill     {spill.events:,} events, {spill.used_bytes:,} of {spill.max_bytes:,} bytes{gone}")
    if found.queue is not None:
        lines += _queue(found, found.queue, settings)
    elif found.queue_trouble:
        lines.append("queue     not known; queued counts all events handed to Redis")
    if status_json.shows_dead_letters(found):
        lines += _kept(found)
    events = found.events
    if events.refused:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in events.refused.items())
        lines.append(f"refused   {refused}")
    rare = {name: getattr(events, name) for name in ("spilled", "removed", "elsewhere", "corrupt")}
    rare["lost with redis"] = events.lost
    sign, decision = ("=", "balanced") if events.balanced else ("!=", "does NOT balance")
    if found.is_account_of_queues:
        lines.append(
            "account   that of the queue, for all pipes and hosts that use it, because this pipe has no ring here"
        )
    lines.append(
        f"events    {events.accepted:,} accepted {sign} {events.in_ring:,} in ring + {events.queued:,} queued + "
        f"{events.delivered:,} delivered + {events.failed:,} failed"
        f"{''.join(f' + {count:,} {what}' for what, count in rare.items() if count)}: {decision}"
    )
    return lines


def _ages(found: Snapshot) -> list[str]:
    """Return a line with the age of the oldest event, because it says more than the number of events."""
    ages_s = {"ring": found.oldest_event_age_s, "queue": found.queue.oldest_job_age_s if found.queue else None}
    said = [f"{duration(age_s)} in the {place}" for place, age_s in ages_s.items() if age_s is not None]
    return [f"oldest    {', '.join(said)}"] if said else []


def _findings(found: Snapshot, settings: Settings) -> Iterator[str]:
    for finding in findings.of(found, settings):
        yield f"{finding.level.upper():<8}  {finding.text}"
        yield f"          {finding.fix}"


def _ring(found: Snapshot, others: Sequence[HostRing]) -> list[str]:
    ring = found.ring
    if ring is None:
        header = "ring      this pipe has no ring" + ("; existing rings:" if others else "")
        return [header, *(f"          {line}" for line in (*rings.table(others), *rings.hidden()))]
    age_s = found.taken_at_s - ring.heartbeat_ms / 1000
    gone = "" if any(each.flusher_pid is not None for each in found.rings) else ", and serves the ring no more"
    flusher = f"pid {ring.flusher_pid}, last seen {age_s:.1f} s ago{gone}" if ring.flusher_pid else "none yet"
    lines = [
        f"ring      {ring.in_ring:,} of {ring.cap:,} events, {ring.blocks_in_use:,} of {ring.blocks:,} blocks, "
        f"{sum(each.producers for each in found.rings)} producers"
    ]
    if found.in_queues_too:
        lines.append(f"          {of_held(found.in_queues_too)}")
    if len(found.rings) > 1:
        lines += [f"          {one.counters.in_ring:,} in {one.name}" for one in found.rings]
    lines.append(f"flusher   {flusher}")
    return lines


def _queue(found: Snapshot, queue: QueueState, settings: Settings) -> list[str]:
    completed = f", {queue.completed:,} completed" if queue.completed else ""
    limit = f" of {queue.max_bytes:,}" if queue.max_bytes is not None else ""
    lines = [
        f"queue     redis {found.redis}{' (paused)' if queue.paused else ''}",
        f"jobs      {queue.waiting:,} waiting, {queue.active:,} active, {queue.delayed:,} delayed, "
        f"{queue.failed:,} failed{completed}; {queue.used_bytes:,}{limit} bytes",
    ]
    if found.generations:
        lines.append(f"queues    {'; '.join(map(of_generation, found.generations))}")
        lines += [f"          {of_row(each)}" for each in flow.rows(found, settings)]
        if found.queue_trouble:
            others = "events of the others count as queued, or in ring"
            lines.append(f"          the jobs are those of the queues that can be read; {others}")
    if queue.lanes:
        lines.append(f"lanes     {', '.join(map(_lane, queue.lanes))}")
        if queue.lanes[0].lane and not all(each.lane for each in queue.lanes):
            lines.append("          the jobs without a lane wait until all lanes have settled the jobs before them")
    return lines


def of_generation(found: GenerationState) -> str:
    """Return a generation of queues in words."""
    own = f"generation {found.number}: {counted(found.queues, 'queue')}"
    left = f"{counted(found.jobs, 'job')} left, delivered first" if found.jobs else "no jobs left"
    away = f", {found.away:,} cannot be read" if found.away else ""
    return f"{own}, {'in use' if found.is_current else left}{away}"


def of_held(events: int) -> str:
    """Return in words that events are in the ring and in queues, so that the ring and the account show the same."""
    return f"{events:,} of these are in their queues already, and leave the ring when every queue has its part"


def of_row(row: QueueRow) -> str:
    """Return one of several queues in words."""
    if row.trouble:
        return f"{row.prefix}: cannot be read: {row.trouble}"
    oldest = f", oldest {duration(row.oldest_job_age_s)}" if row.oldest_job_age_s is not None else ""
    share = f", {row.share:.0%} of the events" if row.share is not None else ""
    sender = f"sender {row.sender.host} pid {row.sender.pid}" if row.sender is not None else "no sender"
    paused = " (paused)" if row.paused else ""
    jobs = f"{row.waiting:,} waiting, {row.active:,} active, {row.failed:,} failed"
    return f"{row.prefix} at {row.redis}{paused}: {jobs}{oldest}{share}; {sender}"


def _lane(jobs: LaneState) -> str:
    retrying = f" ({jobs.retrying:,} tried again)" if jobs.retrying else ""
    return f"{jobs.lane or 'no lane'}: {jobs.active:,} active{retrying}"


def _kept(found: Snapshot) -> list[str]:
    letters = found.dead_letters
    lines = [
        f"kept      {letters.batches:,} failed batches, {letters.events:,} events, in the dead letters; "
        f"{letters.used_bytes:,} of {letters.max_bytes:,} bytes"
    ]
    if letters.waiting:
        lines.append(f"          {letters.waiting:,} of the batches {findings.sent_again(found)}")
    if letters.damaged:
        lines.append(f"          {letters.damaged:,} damaged events, with their bytes from the ring, in {letters.path}")
    return lines


def _producers(ring: Counters) -> list[str]:
    """Return a line for each slot: its producer, or the last producer of a slot that has none now."""
    lines = [f"{'slot':>4}  {'pid':>9}{'accepted':>14}{'in ring':>10}  refused"]
    for producer in ring.producers:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in producer.refused.items()) or "0"
        pid = producer.pid or "gone"
        lines.append(f"{producer.slot:4}  {pid:>9}{producer.accepted:14,}{producer.in_ring:10,}  {refused}")
    return lines
