"""The checkpoint of a running ingestion: what is certain by now, and when it is stored."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion import checkpoint
from rudderpipe.ingestion.block import Position
from rudderpipe.ingestion.checkpoint import Checkpoint, Counts, SourceState
from rudderpipe.ingestion.destination import Milestone
from rudderpipe.ingestion.source import REPLACED, Identity, Source, identity
from rudderpipe.process.clock import iso_ms

SAVE_S = 0.5
SLOW = 20
"""A disk that needs a second for one store gets one every twenty seconds."""
PENDING_AT_MOST = 64


class Place(msgspec.Struct):
    """A place in the sources, the counts there, and the moment by which to see that all before it is certain."""

    milestone: Milestone
    ended: int
    """How many sources had ended."""
    state: SourceState | None
    position: Position
    read_bytes: int
    counts: Counts
    rejects_bytes: int | None


class End(msgspec.Struct):
    """The end of a source, as this run has reached it."""

    state: SourceState
    position: Position
    read_bytes: int
    identity: Identity | None


class CheckpointFile:
    """The checkpoint of one run, which is stored in ``path``; None if it is only kept here."""

    def __init__(self, path: Path | None, found: Checkpoint) -> None:
        self.path = path
        self.checkpoint = found
        self.trouble = ""
        """Why the last store failed."""
        self._pending: list[Place] = []
        self._ends: list[End] = []
        self._file_ids: dict[str, tuple[int, int] | None] = {}
        self._applied = 0
        self._due_s = float("-inf")
        self._is_unsaved = False

    @property
    def is_certain(self) -> bool:
        """True if everything up to the last place is certain."""
        return not self._pending

    def begin(self, state: SourceState, file_id: tuple[int, int] | None) -> None:
        """Note which file a source is, as device and inode; None for what is no file, and has no identity."""
        self._file_ids[state.path] = file_id

    def end(self, state: SourceState, position: Position, read_bytes: int) -> None:
        """Note that a source has ended."""
        self._ends.append(End(state, position, read_bytes, self._identity(state, read_bytes)))

    @property
    def ended(self) -> int:
        """How many sources have ended in this run."""
        return len(self._ends)

    def add(self, place: Place) -> None:
        """Add a place that becomes certain once its milestone is behind."""
        self._pending.append(place)
        if len(self._pending) > PENDING_AT_MOST:
            del self._pending[1:-1:2]

    def look(self, *, now_s: float) -> None:
        """See what has become certain, and store it if that is due."""
        certain: Place | None = None
        while self._pending and self._pending[0].milestone.is_behind():
            certain = self._pending.pop(0)
        if certain is not None:
            self._apply(certain)
        if self._is_unsaved and now_s >= self._due_s:
            self.save()

    def _apply(self, place: Place) -> None:
        for end in self._ends[self._applied : place.ended]:
            state = end.state
            state.position, state.read_bytes, state.identity = end.position, end.read_bytes, end.identity
            state.is_done = True
        self._applied = max(self._applied, place.ended)
        if place.state is not None:
            place.state.position, place.state.read_bytes = place.position, place.read_bytes
            place.state.identity = self._identity(place.state, place.read_bytes)
        found = self.checkpoint
        found.counts, found.rejects_bytes = place.counts, place.rejects_bytes
        found.epoch, found.accepted = place.milestone.epoch, place.milestone.accepted
        self._is_unsaved = True

    def save(self) -> None:
        """Store the checkpoint now; an error is kept as ``trouble``."""
        if self.path is None:
            return
        started_s = time.monotonic()
        self.checkpoint.saved_at = iso_ms(time.time_ns() // 1_000_000)
        try:
            checkpoint.save(self.path, self.checkpoint)
        except OSError as error:
            self.trouble = error.strerror or type(error).__name__
        else:
            self.trouble = ""
            self._is_unsaved = False
        now_s = time.monotonic()
        self._due_s = now_s + max(SAVE_S, SLOW * (now_s - started_s))

    def _identity(self, state: SourceState, read_bytes: int) -> Identity | None:
        file_id = self._file_ids.get(state.path)
        if file_id is None or self.path is None:
            return state.identity
        try:
            found = identity(Source(state.path, state.id_name), read_bytes)
            now = Path(state.path).stat()
        except (IngestionError, OSError):  # the file was removed while it was read
            return state.identity
        if (now.st_dev, now.st_ino) != file_id:
            return msgspec.structs.replace(found, head_sha256=REPLACED)
        return found
