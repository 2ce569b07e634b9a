"""Single attempts to post to a data plane, and what they say."""

from __future__ import annotations

import base64
from typing import Any

from native_tests.faulty_plane import FaultyPlane, Step, answer
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.settings import Settings

BODY = b'{"batch":[{"messageId":"m","userId":"secret-user"}]}'
KEY = "SECRET-KEY"
OK = answer()

_made: list[DataPlane] = []


def close_all() -> None:
    """Close what ``towards`` made."""
    while _made:
        _made.pop().close()


def towards(url: str, **settings: Any) -> DataPlane:
    """Ours, until ``close_all``."""
    _made.append(DataPlane(Settings(**{"data_plane_url": url, "timeout_s": 5, **settings})))
    return _made[-1]


def data_plane(plane: FaultyPlane, **settings: Any) -> DataPlane:
    """Ours, towards that one."""
    return towards(plane.url, **settings)


def post(plane: FaultyPlane, *steps: Step, **settings: Any) -> Outcome:
    """One attempt; nothing secret is in what it says."""
    if steps:
        plane.then(*steps)
    return told(data_plane(plane, **settings).post(BODY, KEY))


def told(outcome: Outcome) -> Outcome:
    """Its reason is one line, bounded, and holds nothing of what was sent."""
    assert len(outcome.reason) <= 250
    assert "\n" not in outcome.reason
    for secret in (KEY, base64.b64encode(f"{KEY}:".encode()).decode(), "secret-user", "proxy-password", "?token"):
        assert secret not in outcome.reason
    return outcome
