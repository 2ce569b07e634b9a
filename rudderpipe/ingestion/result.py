"""The result of an ingestion, and its state while it runs."""

from __future__ import annotations

import msgspec


class Start(msgspec.Struct, frozen=True):
    """The record at which an ingestion went on."""

    source: str
    number: int
    """Its line, its row or its place in an array or an iterable; from 1."""


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the records of one ingestion in this run. It is true if all were read and none is lost.

    Records that an earlier run had handed over are not among them, except for ``already``.
    """

    read: int = 0
    """Records that were read: ``accepted``, ``already`` and ``refused``."""
    accepted: int = 0
    """Events that the ring took."""
    already: int = 0
    """Events that an earlier run had put into the ring, and that were not sent again."""
    delivered: int = 0
    """Events that the data plane has accepted."""
    failed: int = 0
    """Events that will not be delivered; ``rudderpipe failed`` shows them."""
    refused: int = 0
    """Records that are no events, or that ``before_send`` or sampling left out."""
    rejects: dict[str, int] = {}
    """How many were refused, by reason."""
    seconds: float = 0.0
    """How long this run took."""
    resumed_from: Start | None = None
    """Where this run went on; None if it began at the beginning."""
    warnings: tuple[str, ...] = ()
    """What is odd about the times of the events, a line for each source."""
    complete: bool = True
    """False if it was stopped before the last record."""

    def __bool__(self) -> bool:
        return self.complete and not self.failed and not self.refused


class IngestionProgress(msgspec.Struct, frozen=True, kw_only=True):
    """An ingestion at one moment, in this run."""

    source: str
    """The file that is read, or the name of the iterable."""
    number: int
    """The record that is next."""
    done_bytes: int
    """Bytes of the files, as they are on the disk, that were read or need not be read."""
    resumed_bytes: int
    """Those of ``done_bytes`` that an earlier run has read."""
    size_bytes: int | None
    """The bytes of all files; None if that is not known, as for standard input and iterables."""
    read: int
    """Records that were read, as in ``Ingested``; so are the next four."""
    accepted: int
    delivered: int
    failed: int
    refused: int
    seconds: float
    """How long this run has taken."""
    obstacle: str
    """What holds the events up now, empty if they move."""
