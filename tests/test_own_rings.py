"""The rings that tests leave behind, when they or their processes are killed."""

from __future__ import annotations

from pathlib import Path

from rudderpipe.ring import location, memory
from rudderpipe.ring.ring import open_ring
from tests import own_rings
from tests.fakes import FakeClock, settings_of

NO_PROCESS = 1 << 23
"""A number above every pid of Linux."""


def test_only_rings_of_ended_runs_and_of_own_directories_are_removed(tmp_path: Path, clock: FakeClock) -> None:
    """Another run may be under way, and an application may have rings on this host."""
    kept, own = tmp_path / "kept", tmp_path / "own"
    names = {
        "of a run that has ended": (f"native-{NO_PROCESS}-3", kept),
        "of another run": ("test-1-3", kept),
        "of an application": ("applications-own", kept),
        "of this run": (None, kept),
        "of a pipe without a name": ("0123456789ab", own),
    }
    rings = {}
    for whose, (pipe, directory) in names.items():
        directory.mkdir(mode=0o700, exist_ok=True)
        settings = settings_of(directory, ring_bytes=1 << 20, **({"pipe": pipe} if pipe else {}))
        open_ring(settings, clock)
        rings[whose] = location.own(settings).segment
    try:
        own_rings.remove(own)
        left = [whose for whose, name in rings.items() if name in memory.names()]
    finally:
        for name in rings.values():
            memory.remove(name)

    assert left == ["of another run", "of an application"]
