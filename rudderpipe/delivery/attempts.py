"""The count of attempts at the data plane, by what became of them and why."""

from __future__ import annotations

from rudderpipe.delivery.dispatcher import Decision
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.log_text import one_line
from rudderpipe.service.histogram import Histogram

ATTEMPT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
REQUEST_EVENTS = (1, 5, 20, 100, 500, 1000, 5000)
DECISIONS = ("delivered", "retry", "failed", "split", "fewer", "blocked")
REASON_SHOWN = 199
"""Characters of a reason, with one more that says that it was cut."""
NO_STATUS = ("timeout", "connect", "dns", "tls", "broken")
HOST, UNREADABLE = "host", "unreadable"
NAMED = (400, 401, 404, 413, 429)
CLASSES = (
    "http_2xx",
    "http_3xx",
    "http_400",
    "http_401",
    "http_404",
    "http_413",
    "http_429",
    "http_4xx",
    "http_5xx",
    *NO_STATUS,
    HOST,
)


def class_of(outcome: Outcome) -> str:
    """Return the class of an outcome: by its status, or by why there was no response."""
    if outcome.status in NAMED:
        return f"http_{outcome.status}"
    if 200 <= outcome.status < 600:
        return f"http_{outcome.status // 100}xx"
    if outcome.kind == "blocked":
        return HOST
    return outcome.cause if outcome.cause in NO_STATUS else "broken"


class AttemptCounts:
    """The attempts of one process. Only one thread may count, and any thread may read."""

    def __init__(self) -> None:
        self.decisions: dict[tuple[str, ...], int] = {(kind, each): 0 for kind in DECISIONS for each in CLASSES}
        self.seconds = Histogram(ATTEMPT_SECONDS)
        self.request_events = Histogram(REQUEST_EVENTS)
        self.delivered_events = 0
        self.failed_events = dict.fromkeys((*CLASSES, UNREADABLE), 0)
        self.splits = 0
        self.last_class = ""
        """The class of the last attempt."""
        self.last_reason = ""
        """Why the last attempt that did not deliver failed; safe to show, and without anything of what was sent."""

    def note(self, decision: Decision) -> None:
        """Count a decision, once for each request. An attempt that the stop of this process cut off is none."""
        if decision.kind == "stopped":
            return
        self.splits += decision.kind == "split"
        if decision.events:  # else no request was sent
            self.last_class = class_of(decision.outcome)
            if decision.kind != "delivered":
                self.last_reason = one_line(decision.outcome.reason, REASON_SHOWN)
            self.decisions[decision.kind, self.last_class] += 1
            self.seconds.note(decision.seconds)
            self.request_events.note(decision.events)
