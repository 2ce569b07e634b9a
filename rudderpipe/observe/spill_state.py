"""What is to be seen of a pipe's spills."""

from __future__ import annotations

import msgspec

from rudderpipe.flusher import spill
from rudderpipe.settings import Settings


class SpillState(msgspec.Struct, frozen=True):
    """The spills of the pipe's rings, also of those that are gone."""

    events: int
    """Events of the rings that are there which a queue must still get."""
    used_bytes: int
    """Size of what is not yet in the queues, in segments of up to 16 MiB."""
    max_bytes: int
    path: str


def read(settings: Settings, events: int) -> SpillState | None:
    """Return the state; ``events`` is what the rings say. None without ``spill_dir``, and if it cannot be read."""
    directory = spill.directory_of(settings)
    if directory is None:
        return None
    try:
        used_bytes = spill.size_bytes(directory, spill.SUFFIX)
    except OSError:  # the flusher logs what is wrong with the directory
        return None
    return SpillState(events, used_bytes, settings.max_spill_bytes, str(directory))
