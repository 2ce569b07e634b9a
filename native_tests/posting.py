"""Helpers for single attempts to post to a data plane, and for checking their outcomes."""

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
    """Close all data planes that ``towards`` made."""
    while _made:
        _made.pop().close()


def towards(url: str, **settings: Any) -> DataPlane:
    """Return our side of a data plane at this URL, which ``close_all`` closes."""
    _made.append(DataPlane(Settings(**{"data_plane_url": url, "timeout_s": 5, **settings})))
    return _made[-1]


def data_plane(plane: FaultyPlane, **settings: Any) -> DataPlane:
    """Return our side of this data plane."""
    return towards(plane.url, **settings)


def post(plane: FaultyPlane, *steps: Step, **settings: Any) -> Outcome:
    """Make one attempt, and check its outcome."""
    if steps:
        plane.then(*steps)
    return checked(data_plane(plane, **settings).post(BODY, KEY))


def checked(outcome: Outcome) -> Outcome:
    """Check that the reason is one bounded line without any secret or payload, and return the outcome."""
    assert len(outcome.reason) <= 250
    assert "\n" not in outcome.reason
    for secret in (KEY, base64.b64encode(f"{KEY}:".encode()).decode(), "secret-user", "proxy-password", "?token"):
        assert secret not in outcome.reason
    return outcome
