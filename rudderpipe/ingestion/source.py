"""The sources of records: files, the files of a directory, and standard input."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from rudderpipe.errors import IngestionError

STANDARD_INPUT = "-"
HEAD_BYTES = 1 << 16
TAIL_BYTES = 1 << 12
REPLACED = "replaced"
"""The ``head_sha256`` of a file in whose place another one was put while it was read."""
_SUFFIXES = frozenset((".gz", ".zst", ".zstd", ".bz2", ".xz"))


class Source(msgspec.Struct, frozen=True):
    """One file, or standard input."""

    path: str
    """The path as given, or ``-`` for standard input; messages and ``status`` show it."""
    id_name: str
    """The name that goes into the ids of the source's records.

    It is the file's name without its folder, or the path below a given directory, without the suffix of a compression.
    """


class Identity(msgspec.Struct, frozen=True):
    """What a checkpoint keeps of a file, so that a changed file is not taken for the same one."""

    size_bytes: int
    modified_ns: int
    head_sha256: str
    """Of the first ``HEAD_BYTES``."""
    read_bytes: int
    """The bytes of the file, as it is on the disk, that had been read."""
    tail_sha256: str
    """Of the last ``TAIL_BYTES`` before ``read_bytes``."""

    def change(self, source: Source) -> str | None:
        """Return what makes the file another one than it was; None if reading can go on.

        A file may have grown. A copy with another time is the same file.
        """
        if self.head_sha256 == REPLACED:
            return "another file was put in its place while it was read"
        now = identity(source, self.read_bytes, self.size_bytes)
        if now.size_bytes < self.size_bytes:
            return f"it had {self.size_bytes:,} bytes, and has {now.size_bytes:,} now"
        if now.head_sha256 != self.head_sha256:
            return f"its first {min(HEAD_BYTES, self.size_bytes):,} bytes are others now"
        if now.tail_sha256 != self.tail_sha256:
            return f"its bytes before byte {self.read_bytes:,} are others now"
        return None


def identity(source: Source, read_bytes: int, size_bytes: int | None = None) -> Identity:
    """Return the identity of a file of which ``read_bytes`` have been read; raise ``IngestionError``.

    ``size_bytes`` is the size that the file had before, if it may have grown.
    """
    try:
        with Path(source.path).open("rb") as file:
            found = os.fstat(file.fileno())
            head = file.read(min(HEAD_BYTES, found.st_size if size_bytes is None else size_bytes))
            start = max(0, read_bytes - TAIL_BYTES)
            file.seek(start)
            tail = file.read(read_bytes - start)
    except OSError as error:
        raise unreadable(source.path, error) from None
    hashes = (hashlib.sha256(part).hexdigest() for part in (head, tail))
    return Identity(found.st_size, found.st_mtime_ns, next(hashes), read_bytes, next(hashes))


def find_sources(given: Iterable[str], pattern: str | None = None) -> list[Source]:
    """Return the sources in the given order; the files of a directory are sorted by their paths.

    ``pattern`` chooses the files of directories, such as ``*.ndjson.gz``, or ``**/*.csv`` with all folders below.
    Without one, it is all files directly in the directory whose names do not begin with a dot. Raises
    ``IngestionError`` for a path that does not exist, and for a directory without such files.
    """
    found: list[Source] = []
    for path in given:
        if path == STANDARD_INPUT:
            found.append(Source(path, path))
        elif Path(path).is_dir():
            found += _of_directory(path, pattern)
        elif Path(path).exists():
            found.append(Source(path, _id_name(Path(path).name)))
        else:
            raise IngestionError(path, "there is no such file")
    names = Counter(source.id_name for source in found)
    return [
        source if names[source.id_name] == 1 else Source(source.path, _id_name(os.path.normpath(source.path)))
        for source in found
    ]


def unreadable(path: str, error: OSError) -> IngestionError:
    """Return the error of a file that the system does not let us read."""
    return IngestionError(path, f"cannot be read: {error.strerror or type(error).__name__}")


def _of_directory(path: str, pattern: str | None) -> list[Source]:
    folder = Path(path)
    try:
        below = sorted(
            str(each.relative_to(folder))
            for each in folder.glob(pattern or "*")
            if each.is_file() and (pattern or not each.name.startswith("."))
        )
    except (OSError, ValueError, NotImplementedError) as error:
        raise IngestionError(path, f"the pattern {pattern} cannot be used: {error}") from None
    if not below:
        raise IngestionError(path, f"is a directory without files{f' like {pattern}' if pattern else ''}")
    return [Source(str(folder / each), _id_name(each)) for each in below]


def _id_name(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  # name may be a path with folders
    return stem if suffix.lower() in _SUFFIXES else name
