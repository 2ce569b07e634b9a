"""The name of a ring, and the places of its segment and its lock file.

A pipe has a ring for each layout that is in use and for each interpreter of a process. Record locks do not keep
interpreters of one process apart, so no two interpreters may be producers of one ring. ``docs/ring.md``, "Names", shows
the names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cached_property
from importlib import import_module
from pathlib import Path

import msgspec

from rudderpipe.process import runtime_dir
from rudderpipe.ring import layout as at
from rudderpipe.ring import memory
from rudderpipe.settings import Settings


def current() -> int:
    """Return the number of this interpreter within its process; the main one is 0."""
    try:
        if sys.version_info >= (3, 13):
            return int(import_module("_interpreters").get_current()[0])
        return int(import_module("_xxsubinterpreters").get_current())
    except ImportError:  # this Python has no sub-interpreters
        return 0


UNNAMED_LAYOUT = 3
"""The last layout whose rings have the name of their pipe alone."""
SUFFIX = ".lock"
_SUFFIXED = re.compile(r"(?P<pipe>.+)-v(?P<layout>\d{1,6})(?:-i(?P<interpreter>\d{1,19}))?")


class RingLocation(msgspec.Struct, frozen=True, dict=True):
    """One ring's pipe, layout and interpreter, and the directory of its lock file."""

    directory: Path
    pipe: str
    layout: int = at.VERSION
    interpreter: int = 0

    @property
    def stem(self) -> str:
        """The ring's name, which is part of the names of its segment and its lock file."""
        if self.layout <= UNNAMED_LAYOUT:
            return self.pipe
        return f"{self.pipe}-v{self.layout}" + (f"-i{self.interpreter}" if self.interpreter else "")

    @cached_property
    def segment(self) -> str:
        """The segment's name, for a ring of this user."""
        return memory.segment_name(self.stem)

    @cached_property
    def lock_file(self) -> Path:
        """The path of the lock file."""
        return self.directory / f"{self.stem}{SUFFIX}"

    def record(self, epoch: int) -> str:
        """Return the text of the lock file. Tools find the ring by it, because macOS cannot list segments."""
        if self.layout <= UNNAMED_LAYOUT:
            return f"{epoch:016x}\n"
        fields = {
            "name": self.segment,
            "layout": self.layout,
            "pipe": self.pipe,
            "interpreter": self.interpreter,
            "epoch": f"{epoch:016x}",
        }
        return msgspec.json.encode(fields).decode() + "\n"


def own(settings: Settings) -> RingLocation:
    """Return the place of the ring that this interpreter puts events into."""
    return RingLocation(runtime_dir.ensure(settings.runtime_dir), settings.pipe_name, interpreter=current())


def of_pipe(settings: Settings) -> list[RingLocation]:
    """Return the places of all rings that the pipe may have now: the oldest layout first, then by interpreter."""
    directory = runtime_dir.ensure(settings.runtime_dir)
    wanted = set(settings.pipe_names)
    found = [place for stem in stems(directory) for place in readings(directory, stem) if place.pipe in wanted]
    return sorted(found, key=lambda place: (place.layout, place.interpreter, place.pipe))


def stems(directory: Path) -> set[str]:
    """Return the names of all rings that may exist: of lock files, and of segments where the system lists them."""
    files = {path.name.removesuffix(SUFFIX) for path in directory.glob(f"*{SUFFIX}")}
    before = len(memory.segment_name(""))
    return files | {name[before:] for name in memory.names()}


def readings(directory: Path, stem: str) -> Iterable[RingLocation]:
    """Yield what a ring's name can mean: ``x-v4`` is a ring of pipe ``x``, or an old one of a pipe named ``x-v4``."""
    match = _SUFFIXED.fullmatch(stem)
    if match is not None and int(match["layout"]) > UNNAMED_LAYOUT:
        yield RingLocation(directory, match["pipe"], int(match["layout"]), int(match["interpreter"] or 0))
    yield RingLocation(directory, stem, UNNAMED_LAYOUT)
