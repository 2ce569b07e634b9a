"""One trouble of a pipe, in words."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["warning", "trouble"]
FILLING = 0.8
"""The share from which something is nearly full: a ring, a queue, the dead letters."""


class Finding(msgspec.Struct, frozen=True):
    """One trouble of a pipe.

    ``code`` names the trouble for programs. ``runbook`` is the heading of docs/runbook.md, and the name of the alert,
    without ``Rudderpipe``; None where the page has no heading.
    """

    level: Level
    code: str
    text: str
    """What is wrong, in one sentence."""
    fix: str
    """How to mend it, in one sentence."""
    runbook: str | None = None


def duration(seconds: float) -> str:
    """Return a duration in words: ``0.4 s``, ``12 s``, ``5 min``, ``3 h``, ``3 days``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, noun, below in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if round(seconds / size) < below:
            return f"{seconds / size:.0f} {noun}"
    return f"{seconds / 86_400:.0f} days"


def wait(number: int) -> str:
    """Return the verb for so many of a thing."""
    return "waits" if number == 1 else "wait"
