"""The JSON of a pipe, which ``rudderpipe status --json`` prints and ``/status.json`` returns; docs/json.md has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rudderpipe.observe import findings, flow
from rudderpipe.observe.host_rings import HostRing
from rudderpipe.observe.pipe_queues import QueueState
from rudderpipe.observe.snapshot import DeadLetterState, Snapshot
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import iso_ms
from rudderpipe.ring.counters import Counters
from rudderpipe.settings import Settings


def of(found: Snapshot, settings: Settings, others: Sequence[HostRing] = ()) -> dict[str, Any]:
    """Return the JSON of a snapshot; ``others`` are the host's rings when the pipe has none.

    ``ring`` is the sum of all rings of the pipe, and null when the pipe has none. ``jobs`` is null in direct mode and
    when Redis could not be read; ``trouble`` is the reason then. ``spool`` holds the dead letters in direct mode, and
    in queue mode when events were damaged.
    """
    log = runtime_dir.existing_log(settings)
    letters = found.dead_letters if shows_dead_letters(found) else None
    return {
        "pipe": found.pipe,
        "redis": found.redis,
        "ring": _counters(found, found.ring) if found.ring is not None else None,
        "jobs": _jobs(found, found.queue) if found.queue is not None else None,
        "queues": flow.rows(found, settings),
        "sender": _sender(found, settings),
        "events": found.events,
        "is_account_of_queues": found.is_account_of_queues,
        "trouble": found.queue_trouble or None,
        "spool": _spool(letters) if letters is not None else None,
        "spill": found.spill,
        "rings": [{"name": ring.name, "in_ring": ring.counters.in_ring} for ring in found.rings],
        "log": str(log) if log is not None else None,
        "is_stuck": found.is_stuck,
        "others": others,
        "findings": findings.of(found, settings),
        "lacks_sender": found.lacks_sender(settings),
    }


def _counters(found: Snapshot, ring: Counters) -> dict[str, Any]:
    """Return the counters of the ring, with its moments in the form of every JSON output."""
    counters: dict[str, Any] = msgspec.to_builtins(ring)
    beat_ms, down_ms = counters.pop("heartbeat_ms"), counters.pop("down_since_ms")
    del counters["recovered"]  # a part of the delivered events
    counters["heartbeat_age_s"] = max(0.0, round(found.taken_at_s - beat_ms / 1000, 3)) if beat_ms else None
    counters["oldest_event_age_s"] = found.oldest_event_age_s
    counters["down_since"] = iso_ms(down_ms) if down_ms else None
    counters["unconfirmed_s"] = found.unconfirmed_s
    return counters


def _jobs(found: Snapshot, queue: QueueState) -> dict[str, Any]:
    return {
        "waiting": queue.waiting,
        "active": queue.active,
        "delayed": queue.delayed,
        "failed": queue.failed,
        "paused": queue.paused,
        "completed": queue.completed,
        "bytes": queue.used_bytes,
        "max_bytes": queue.max_bytes,
        "odd_fields": queue.odd_fields,
        "other_plane": queue.other_plane,
        "eviction": _eviction(queue),
        "lanes": queue.lanes,
        "generations": found.generations,
        "oldest_job_age_s": queue.oldest_job_age_s,
        "oldest_failed_age_s": queue.oldest_failed_age_s,
    }


def _eviction(queue: QueueState) -> str:
    policy = queue.evicting_policy
    return f"maxmemory-policy is {policy}, which evicts queued events: noeviction" if policy else ""


def _sender(found: Snapshot, settings: Settings) -> dict[str, Any] | None:
    """Return the sender with its report, whose moments have the form of every JSON output."""
    sender = flow.sender_of(found, settings)
    if sender is None:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(sender)
    report = fields["report"]
    if report is not None:
        del report["attempt_s_buckets"]  # the metrics have them
        report["written_at"] = iso_ms(report.pop("written_ms"))
        report["started_at"] = iso_ms(report.pop("started_ms"))
    return fields


def _spool(letters: DeadLetterState) -> dict[str, Any]:
    return {
        "batches": letters.batches,
        "waiting": letters.waiting,
        "events": letters.events,
        "bytes": letters.used_bytes,
        "max_bytes": letters.max_bytes,
        "damaged": letters.damaged,
        "path": letters.path,
    }


def shows_dead_letters(found: Snapshot) -> bool:
    """Return True in direct mode, and with a queue if events were damaged."""
    return not found.redis or found.dead_letters.damaged > 0
