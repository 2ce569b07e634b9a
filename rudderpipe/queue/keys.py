"""The names and Redis types of Bull's keys (``queue.js`` toKey of Bull 4.16) and of our own keys."""

from __future__ import annotations

RESERVED = frozenset(
    (
        *("id", "wait", "paused", "meta", "meta-paused", "active", "delayed", "priority", "completed", "failed"),
        *("stalled", "stalled-check", "limiter", "repeat", "progress", "resumed", "drained"),
    )
)
"""The suffixes of keys and channels that do not belong to a job."""


def is_a_jobs(job_id: str) -> bool:
    """Return False if the job's hash would collide with one of the queue's own keys."""
    return (
        job_id not in RESERVED
        and not job_id.startswith(("limiter:", "metrics:"))
        and not (job_id.endswith((":lock", ":logs")))
    )


class Keys:
    """The keys of one queue. All share the hash tag of the prefix, so a Redis Cluster keeps them in one slot."""

    def __init__(self, prefix: str, queue_name: str) -> None:
        tagged = prefix if prefix.startswith("{") and prefix.endswith("}") else f"{{{prefix}}}"
        self.base = f"{tagged}:{queue_name}:"
        # Bull's keys.
        self.id = f"{self.base}id"  # string: the last job's number
        self.wait = f"{self.base}wait"  # list: the next job at the tail
        self.paused = f"{self.base}paused"  # list: takes the place of wait while meta-paused exists
        self.meta_paused = f"{self.base}meta-paused"  # string
        self.meta = (
            f"{self.base}meta"  # hash: where BullMQ, and Bull beside meta-paused, stores that the queue is paused
        )
        self.active = f"{self.base}active"  # list: the newest job at the head
        self.delayed = f"{self.base}delayed"  # sorted set
        self.priority = f"{self.base}priority"  # sorted set
        self.completed = f"{self.base}completed"  # sorted set, by finishedOn
        self.failed = f"{self.base}failed"  # sorted set, by finishedOn
        self.stalled = f"{self.base}stalled"  # set
        self.stalled_check = f"{self.base}stalled-check"  # string, expires after the interval
        # Our own keys. They are not under the queue's prefix, because Bull's removeJobs("*") deletes every hash there.
        self.account = f"{tagged}:rudderpipe:{queue_name}:account"  # hash: events by state, over all rings
        self.failed_events = f"{self.account}:failed"  # hash: failed job -> "<epoch>:<events>"
        self.rings = f"{self.account}:rings"  # sorted set: epochs of rings, by when a flusher last entered them
        self.added = f"{self.account}:added"  # hash: epoch of a ring -> its events that the account has counted
        self.plane = f"{tagged}:rudderpipe:{queue_name}:plane"  # string: the data plane that the queue's jobs are for
        self.route = f"{tagged}:rudderpipe:{queue_name}:route"  # string: JSON, all queues; beside generation 0
        self.members = f"{tagged}:rudderpipe:{queue_name}:members"  # sorted set: managers of senders, beside the route
        self.sealed = f"{tagged}:rudderpipe:{queue_name}:sealed"  # string: "<generation> <id>", no flusher adds then
        self.open = f"{tagged}:rudderpipe:{queue_name}:open"  # string: exists once senders may deliver
        self.check = f"{tagged}:rudderpipe:{queue_name}:check"  # string: expires at once; shows that Redis takes writes
        self.lease = f"{tagged}:rudderpipe:{queue_name}:lease"  # string: "<number> <holder>", expires with the lease
        self.senders = f"{tagged}:rudderpipe:{queue_name}:senders"  # hash: "<host> <pid>" -> "<ms> <report>", expires
        self.last_lease = f"{self.lease}:last"  # string: the last lease, expired or not

    def ring(self, epoch: int) -> str:
        """Return the key of one ring's hash: tenure of a block -> events added; and counts of its events by state."""
        return f"{self.account}:{epoch:016x}"
