"""The checkpoint: how far an ingestion is for certain, so that the same command goes on there.

It stands behind what has left the ring, because a reboot loses the ring. It also has the ring's epoch and how many
events the ring had accepted at that place. While that ring still exists, the next run skips exactly the events that the
ring has accepted since then.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion.block import Position
from rudderpipe.ingestion.source import Identity, Source

KIND = "rudderpipe checkpoint 1"
SUFFIX = ".checkpoint"


class Counts(msgspec.Struct):
    """What became of the records so far."""

    read: int = 0
    """Records that were read: those that were accepted, and those that were refused."""
    accepted: int = 0
    refused: int = 0

    def copy(self) -> Counts:
        """Return the counts of this moment."""
        return Counts(self.read, self.accepted, self.refused)


class SourceState(msgspec.Struct):
    """How far one source is."""

    path: str
    id_name: str
    identity: Identity | None = None
    """The file as it was read; None for a source of which nothing was read, and for an iterable."""
    position: Position = Position()
    read_bytes: int = 0
    is_done: bool = False


class Checkpoint(msgspec.Struct):
    """How far an ingestion is for certain."""

    kind: str
    pipe: str
    """The name of the pipe, which depends on write key, data plane and queue, and reveals none of them."""
    options: str
    """A digest of the options that decide which events the records become."""
    sources: list[SourceState]
    counts: Counts
    epoch: int = 0
    accepted: int = 0
    """How many events the ring of ``epoch`` had accepted up to this place."""
    rejects_bytes: int | None = None
    """The bytes of the file of rejects; None without one."""
    is_finished: bool = False
    saved_at: str = ""

    def state_of(self, source: Source) -> SourceState | None:
        """Return the state of a source, None if it is new."""
        return next((state for state in self.sources if place_of(state.path) == place_of(source.path)), None)


def place_of(path: str) -> str:
    """Return the absolute path, so that ``./a`` and ``a`` are the same source."""
    return os.path.abspath(path)  # noqa: PTH100  # Path.absolute() keeps ".."


def load(path: Path) -> Checkpoint | None:
    """Return the checkpoint in a file, None if there is no file; raise ``IngestionError`` for another file."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise IngestionError(str(path), "the checkpoint cannot be created: there is no such folder") from None
        return None
    except OSError as error:
        raise IngestionError(str(path), f"the checkpoint cannot be read: {error.strerror}") from None
    try:
        found = msgspec.json.decode(text, type=Checkpoint)
    except msgspec.DecodeError:
        found = None
    if found is None or found.kind != KIND:
        raise IngestionError(str(path), "is no checkpoint of this version; give another file to --checkpoint")
    return found


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file by the checkpoint: a kill or a power cut leaves the old one or the new one.

    Raises ``OSError``.
    """
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(checkpoint) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
