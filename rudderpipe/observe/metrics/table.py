"""Every metric that rudderpipe exports, as data. ``docs/metrics.md`` is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from rudderpipe.delivery.attempts import (
    ATTEMPT_SECONDS,
    CLASSES,
    DECISIONS,
    REQUEST_EVENTS,
    UNREADABLE,
)
from rudderpipe.flusher.counts import BATCH_EVENTS
from rudderpipe.queue.meter import CALL_SECONDS, ERRORS
from rudderpipe.ring.layout import REFUSALS
from rudderpipe.sender.counts import AGE_SECONDS

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["all", "ring", "flusher", "queue", "redis", "plane", "sender", "process"]


class Metric(msgspec.Struct, frozen=True):
    """One metric: its whole name, its type, its help, and its labels."""

    name: str
    kind: Kind
    help: str
    source: Source
    """What the metric is about. It decides the first label and which programs export it."""
    labels: Mapping[str, Sequence[str]] = {}
    """The other labels, each with all values that it can have; none listed where settings or the host decide."""
    bounds: Sequence[float] = ()
    """The upper bounds of a histogram."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of all labels, in order."""
        return (*FIRST_LABEL[self.source], *self.labels)


FIRST_LABEL: Mapping[Source, tuple[str, ...]] = {
    "ring": ("pipe",),
    "flusher": ("pipe",),
    "queue": ("queue",),
    "redis": ("queue",),
    "plane": ("queue",),
    "sender": ("queue",),
    "process": (),
    "all": (),
}
"""The label that says which pipe or queue a metric is about."""
SHOWN_BY: Mapping[Source, str] = {
    "ring": "flusher, application, `rudderpipe metrics`",
    "queue": "flusher, sender, application, `rudderpipe metrics`",
    "flusher": "flusher",
    "redis": "flusher, sender",
    "plane": "sender, and in direct mode the flusher, with an empty `queue`",
    "sender": "sender",
    "process": "flusher, sender",
    "all": "all",
}
"""The programs that export a metric."""


def _histogram(source: Source, name: str, text: str, bounds: Sequence[float], **labels: Sequence[str]) -> Metric:
    return Metric(name, "histogram", text, source, labels, bounds)


def _gauge(source: Source, name: str, text: str, **labels: Sequence[str]) -> Metric:
    return Metric(name, "gauge", text, source, labels)


def _counter(source: Source, name: str, text: str, **labels: Sequence[str]) -> Metric:
    return Metric(name, "counter", text, source, labels)


LEFT = ("queued", "delivered", "failed", "corrupt")
JOB_STATES = ("waiting", "active", "delayed", "failed", "completed")
QUEUE_ENDS = ("delivered", "removed", "elsewhere", "lost")
NO_LANE = "none"

_OF_ALL = (
    _gauge(
        "all", "rudderpipe_build_info", "1, for each program that exports metrics.", version=(), python=(), component=()
    ),
)
_OF_RINGS = (
    _counter("ring", "rudderpipe_events_accepted_total", "Events that calls have put into the rings of the pipe."),
    _counter(
        "ring",
        "rudderpipe_events_refused_total",
        "Events that calls have refused. They are lost unless the caller kept them.",
        reason=REFUSALS,
    ),
    _counter(
        "ring",
        "rudderpipe_events_left_total",
        "Events that left the rings: to the queue, or in direct mode delivered or failed; or damaged.",
        outcome=LEFT,
    ),
    _counter(
        "ring",
        "rudderpipe_events_recovered_total",
        "Events that had failed in direct mode, and were delivered later as dead letters.",
    ),
    _gauge("ring", "rudderpipe_ring_events", "Events that wait in the rings."),
    _gauge(
        "ring",
        "rudderpipe_ring_capacity_events",
        "Events that the rings may hold, which is max_internal_queue_size a ring.",
    ),
    _gauge("ring", "rudderpipe_ring_blocks", "Blocks of the rings.", state=("used", "free")),
    _gauge("ring", "rudderpipe_ring_reserved_bytes", "Memory that the rings take."),
    _gauge("ring", "rudderpipe_ring_size_bytes", "Memory that the rings may take, which is about ring_bytes a ring."),
    _gauge(
        "ring",
        "rudderpipe_ring_oldest_event_age_seconds",
        "How long the oldest event has been in a ring; 0 if none waits.",
    ),
    _gauge("ring", "rudderpipe_ring_created_timestamp_seconds", "When the oldest of the rings was made."),
    _gauge("ring", "rudderpipe_producers", "Processes that have a slot in a ring."),
    _gauge("ring", "rudderpipe_producer_slots_used", "Slots that ever had a producer, of 512 in a ring."),
    _gauge(
        "ring",
        "rudderpipe_shm_free_bytes",
        "Free bytes of the file system that holds the rings. Only on Linux.",
        path=(),
    ),
    _gauge(
        "ring",
        "rudderpipe_flusher_heartbeat_timestamp_seconds",
        "The last sign of life of the flusher. It is that of the ring with events whose flusher was silent longest; "
        "before a ring's first flusher, the moment when the ring was made.",
    ),
    _counter("ring", "rudderpipe_flusher_starts_total", "Flushers that have served the rings."),
    _gauge(
        "ring",
        "rudderpipe_sink_down_seconds",
        "For how long the flusher has not been able to hand over events; 0 if it can.",
    ),
    _gauge(
        "ring",
        "rudderpipe_unconfirmed_seconds",
        "For how long replicas of redis have lacked events that redis has (redis_replicas); 0 if they have them.",
    ),
    _gauge(
        "ring",
        "rudderpipe_spilled_events",
        "Events in the spill that a queue must still get. Only with spill_dir, as the next two.",
    ),
    _gauge("ring", "rudderpipe_spill_bytes", "Size of the spill on its disk, without what the queues have."),
    _gauge("ring", "rudderpipe_spill_capacity_bytes", "Size that it may have, which is max_spill_bytes."),
    _gauge(
        "ring",
        "rudderpipe_account_balanced",
        "1 if the events that left the rings are those that redis, or in direct mode the data plane, has counted.",
    ),
    _gauge("ring", "rudderpipe_dead_letters_bytes", "Room that the dead letters take."),
    _gauge("ring", "rudderpipe_dead_letters_capacity_bytes", "Room that they may take, which is max_spool_bytes."),
    _gauge("ring", "rudderpipe_dead_letters_events", "Events of failed batches in the dead letters."),
)
_OF_QUEUE = (
    _gauge("queue", "rudderpipe_redis_up", "1 if redis has responded to this program at the last look."),
    _gauge("queue", "rudderpipe_queue_jobs", "Jobs in the queue.", state=JOB_STATES),
    _gauge("queue", "rudderpipe_queue_events", "Events of the jobs in the queue.", state=("queued", "failed")),
    _counter(
        "queue",
        "rudderpipe_queue_events_left_total",
        "Events that left the queue: delivered; removed with failed jobs; elsewhere, by another SDK's worker or a "
        "tool of Bull; lost, with the data of redis.",
        outcome=QUEUE_ENDS,
    ),
    _gauge("queue", "rudderpipe_queue_paused", "1 while the queue is paused."),
    _gauge(
        "queue",
        "rudderpipe_queue_oldest_job_age_seconds",
        "How long ago the oldest active job was made, or if none is active the next one in line; 0 without a job.",
    ),
    _gauge(
        "queue",
        "rudderpipe_queue_oldest_failed_age_seconds",
        "How long ago the oldest job of the failed set failed; 0 without one.",
    ),
    _gauge(
        "queue",
        "rudderpipe_queue_bytes",
        "Memory in redis of the jobs in all states. An estimate if there are thousands.",
    ),
    _gauge("queue", "rudderpipe_queue_capacity_bytes", "max_queue_bytes. Absent if that is not set."),
    _gauge(
        "queue",
        "rudderpipe_queue_lease_number",
        "The number of the lease. It grows when a sender takes over, and when a response of redis was lost. Absent "
        "while no sender has the lease.",
    ),
    _gauge(
        "queue",
        "rudderpipe_queue_generation",
        "The number of the generation that the queue belongs to. Absent where there never was more than one queue, as "
        "the two below.",
    ),
    _gauge(
        "queue",
        "rudderpipe_queue_current",
        "1 if new events go to the generation of the queue, 0 if the queue is drained.",
    ),
    _gauge("queue", "rudderpipe_generation_queues", "How many queues the generation of the queue has."),
    _gauge(
        "queue",
        "rudderpipe_queue_share",
        "The share of the events of the last 5 minutes that this queue got, of all queues of its generation. At the "
        "first look, and if fewer than 200 events came, it is that of all events since the generation was made. Absent "
        "with one queue, for an earlier generation, and while a queue cannot be read.",
    ),
    _gauge(
        "queue",
        "rudderpipe_lane_jobs",
        "Active jobs by lane. Jobs without a lane wait for the lanes before them. Absent with one lane.",
        lane=(),
        state=("active", "retrying"),
    ),
)
_OF_FLUSHER = (
    _histogram("flusher", "rudderpipe_flush_batch_events", "Events of each batch that left a ring.", BATCH_EVENTS),
    _counter("flusher", "rudderpipe_flush_bytes_total", "Bytes of these batches."),
    _counter(
        "flusher",
        "rudderpipe_dead_letters_lost_events_total",
        "Events that failed in direct mode and could not be kept as dead letters.",
    ),
)
_OF_REDIS = (
    _histogram(
        "redis",
        "rudderpipe_redis_call_seconds",
        "How long each call to redis took. complete_and_take is a round trip with two scripts.",
        CALL_SECONDS,
        script=(),
    ),
    _counter(
        "redis",
        "rudderpipe_redis_errors_total",
        "Errors of redis, or of the connection to it.",
        **{"class": ERRORS},
    ),
)
_OF_PLANE = (
    _counter(
        "plane",
        "rudderpipe_attempts_total",
        "Requests to the data plane, by what followed. Of split and fewer nothing is decided yet: smaller requests "
        "follow. blocked attempts were prevented by this host and are not counted against max_attempts.",
        decision=DECISIONS,
        **{"class": CLASSES},
    ),
    _histogram("plane", "rudderpipe_attempt_seconds", "How long each request took.", ATTEMPT_SECONDS),
    _histogram("plane", "rudderpipe_request_events", "Events of each request.", REQUEST_EVENTS),
    _counter(
        "plane",
        "rudderpipe_request_bytes_total",
        "Bytes of the bodies of requests: plain, and as they were sent, repeats and redirects included.",
        encoding=("plain", "sent"),
    ),
    _counter("plane", "rudderpipe_delivered_events_total", "Events that the data plane has taken."),
    _counter(
        "plane",
        "rudderpipe_failed_events_total",
        "Events that failed, by the last reason. unreadable counts jobs that cannot be read.",
        **{"class": (*CLASSES, UNREADABLE)},
    ),
    _counter("plane", "rudderpipe_splits_total", "Jobs or batches that were split in halves."),
)
_OF_SENDER = (
    _gauge(
        "sender",
        "rudderpipe_sender_lease_held",
        "1 if this sender has the lease, or works without one because is_multi_processor is set.",
    ),
    _gauge("sender", "rudderpipe_sender_backoff_seconds", "How long this sender waits before its next attempt."),
    _gauge(
        "sender",
        "rudderpipe_lane_backoff_seconds",
        "How long each lane waits before its next attempt. Absent with one lane.",
        lane=(),
    ),
    _histogram(
        "sender",
        "rudderpipe_delivery_age_seconds",
        "How old each job was when it was delivered, from the moment when its events left the ring.",
        AGE_SECONDS,
    ),
    _counter(
        "sender",
        "rudderpipe_recovered_jobs_total",
        "Active jobs that were put first in line again, after another sender's death or a lost response of redis.",
    ),
)
_OF_PROCESS = (
    _counter("process", "process_cpu_seconds_total", "CPU time of the process, in user and system mode."),
    _gauge("process", "process_resident_memory_bytes", "Resident memory of the process."),
    _gauge("process", "process_open_fds", "Open descriptors of the process."),
    _gauge("process", "process_start_time_seconds", "When the process began."),
)
METRICS: tuple[Metric, ...] = (
    *_OF_ALL,
    *_OF_RINGS,
    *_OF_FLUSHER,
    *_OF_QUEUE,
    *_OF_REDIS,
    *_OF_PLANE,
    *_OF_SENDER,
    *_OF_PROCESS,
)
BY_NAME = {metric.name: metric for metric in METRICS}
