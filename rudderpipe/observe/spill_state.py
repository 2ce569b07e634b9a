"""What is to be seen of a pipe's spills."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rudderpipe.flusher import spill
from rudderpipe.process.runtime_dir import private
from rudderpipe.ring.counters import Counters
from rudderpipe.settings import Settings


class SpillState(msgspec.Struct, frozen=True):
    """The spills of the pipe's rings, also of those that are gone."""

    events: int
    """Events of the rings that are there which a queue must still get."""
    used_bytes: int
    """Size of what is not yet in the queues, in segments of up to 16 MiB."""
    max_bytes: int
    path: str
    rings_gone: int
    """How many rings are gone whose spills have files, as after a restart of the machine. Their events are not counted
    among ``events``."""
    trouble: str
    """Why files cannot be read or removed now, with the path; empty if they can."""


def read(settings: Settings, rings: Sequence[Counters]) -> SpillState | None:
    """Return the state; ``rings`` are those of the pipe. None without ``spill_dir``."""
    directory = spill.directory_of(settings)
    if directory is None:
        return None
    used_bytes, gone, trouble = 0, 0, ""
    try:
        segments = spill.files(directory, spill.SUFFIX)
        used_bytes = spill.size_bytes(segments)
        gone = len({path.parent.name for path in segments} - {f"{each.epoch:016x}" for each in rings})
        trouble = _trouble(segments)
    except OSError as error:
        trouble = f"{error.strerror}: {error.filename or directory}"
    events = sum(each.spilled for each in rings)
    return SpillState(events, used_bytes, settings.max_spill_bytes, str(directory), gone, trouble)


def _trouble(segments: Sequence[Path]) -> str:
    """Return what prevents changes. Raise ``OSError`` if a file cannot be read."""
    for path in segments:
        try:
            with open(path, "rb", opener=private) as file:  # Path.open takes no opener
                file.read(1)
        except FileNotFoundError:
            continue  # every queue has its events by now
        if not os.access(path.parent, os.W_OK | os.X_OK):
            return f"nothing can be changed in {path.parent}"
    return ""
