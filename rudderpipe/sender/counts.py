"""What a sender counts for its metrics: plain integers, once for each request or job."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from rudderpipe.delivery.attempts import AttemptCounts
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.meter import TOGETHER, RedisMeter
from rudderpipe.service.histogram import Histogram

AGE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600)
SCRIPTS = (
    *("take_lease", "release_lease", "take_jobs", TOGETHER, "complete_jobs", "retry_later", "split_job", "fail_job"),
    *("put_back", "recover_active", "promote_delayed", "sweep_stalled"),
)
"""The scripts that the sender's own thread calls."""
KEEPERS_SCRIPTS = ("renew_locks", "count_jobs", "count_stranded", "report_sender")
"""The scripts that the thread calls which renews lease and locks."""


class SenderCounts:
    """The counts of a sender. Each has one thread that counts, and any thread may read it."""

    def __init__(self) -> None:
        self.attempts = AttemptCounts()
        self.age = Histogram(AGE_SECONDS)
        """How old jobs were when they were delivered, in seconds."""
        self.recovered_jobs = 0
        self.redis = RedisMeter(SCRIPTS)
        self.keepers_redis = RedisMeter(KEEPERS_SCRIPTS)

    def delivered(self, jobs: Iterable[ActiveJob], now_s: float) -> None:
        """Count delivered jobs at this time of day."""
        for job in jobs:
            self.attempts.delivered_events += job.events
            if job.job is not None and (made_s := seconds_of(job.job.made_at)) is not None:
                self.age.note(max(0.0, now_s - made_s))

    def failed(self, job: ActiveJob, class_: str) -> None:
        """Count the events of a job that failed; 1 for a job that cannot be read."""
        self.attempts.failed_events[class_] += job.events or 1


@lru_cache(maxsize=16)  # the jobs of one commit of a flusher have one moment
def seconds_of(text: str) -> float | None:
    """Return a moment in seconds since 1970; None if the text is none, as in jobs of other programs."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
