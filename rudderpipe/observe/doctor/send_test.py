"""One event of our own that goes the whole way, from a call to its receipt by the data plane."""

from __future__ import annotations

from rudderpipe.client import Client
from rudderpipe.observe.doctor.check import Finding
from rudderpipe.settings import Settings

WAIT_S = 30.0
EVENT = "rudderpipe doctor"
USER = "rudderpipe-doctor"


def send(settings: Settings, wait_s: float = WAIT_S) -> Finding:
    """Track one event and wait until the data plane has it. The number of the finding is 0, as it is no check."""
    with Client(settings=settings) as client:
        if not client.track(USER, EVENT):
            why = ", ".join(name for name, count in client.counts().items() if count and name != "accepted")
            return _finding("fail", f"the event was refused: {why}", "look at the checks of the ring")
        result = client.flush(timeout_s=wait_s, until="delivered")
    if result:
        return _finding("ok", f"one event, {EVENT!r} of the user {USER!r}, was delivered", "")
    said = f"not delivered within {wait_s:g} s: {result.reason or 'its way is open, and other events are before it'}"
    return _finding("fail", said, "look at the other checks; the event stays in the pipe and is delivered later")


def _finding(state: str, text: str, fix: str) -> Finding:
    return Finding(0, "send test", "test", "ok" if state == "ok" else "fail", text, fix)
