"""Bull's key names and their Redis types (``queue.js`` toKey of Bull 4.16), and the few of our own beside them."""

from __future__ import annotations

RESERVED = frozenset(
    (
        *("id", "wait", "paused", "meta", "meta-paused", "active", "delayed", "priority", "completed", "failed"),
        *("stalled", "stalled-check", "limiter", "repeat", "progress", "resumed", "drained"),
    )
)
"""What follows the prefix in keys and channels that are no job's."""


def is_a_jobs(job_id: str) -> bool:
    """Whether a job may have this id: its hash would else be one of the queue's own keys."""
    return (
        job_id not in RESERVED
        and not job_id.startswith(("limiter:", "metrics:"))
        and not (job_id.endswith((":lock", ":logs")))
    )


class Keys:
    """The keys of one queue; all share the hash tag of the prefix, so a Redis Cluster keeps them in one slot."""

    def __init__(self, prefix: str, queue_name: str) -> None:
        tagged = prefix if prefix.startswith("{") and prefix.endswith("}") else f"{{{prefix}}}"
        self.base = f"{tagged}:{queue_name}:"
        # Bull's.
        self.id = f"{self.base}id"  # string: the last job's number
        self.wait = f"{self.base}wait"  # list: next at the tail
        self.paused = f"{self.base}paused"  # list: takes the place of wait while meta-paused exists
        self.meta_paused = f"{self.base}meta-paused"  # string
        self.active = f"{self.base}active"  # list: newest at the head
        self.delayed = f"{self.base}delayed"  # sorted set
        self.priority = f"{self.base}priority"  # sorted set
        self.completed = f"{self.base}completed"  # sorted set, by finishedOn
        self.failed = f"{self.base}failed"  # sorted set, by finishedOn
        self.stalled = f"{self.base}stalled"  # set
        self.stalled_check = f"{self.base}stalled-check"  # string, gone after the interval
        # Ours.
        # They stand beside the queue, not under its prefix: Bull's removeJobs("*") deletes every hash there.
        self.account = f"{tagged}:rudderpipe:{queue_name}:account"  # hash: events by state, over all rings
        self.failed_events = f"{self.account}:failed"  # hash: failed job -> "<epoch>:<events>"

        self.plane = f"{tagged}:rudderpipe:{queue_name}:plane"  # string: the data plane that its jobs are for
        self.lease = f"{tagged}:rudderpipe:{queue_name}:lease"  # string: "<number> <holder>", gone when it lapses
        self.last_lease = f"{self.lease}:last"  # string: the last one there was

    def ring(self, epoch: int) -> str:
        """Hash of one ring: block sequence -> events added, and queued, delivered, failed of its events."""
        return f"{self.account}:{epoch:016x}"
