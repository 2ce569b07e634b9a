"""What an ingestion has to do: its options, its pipe, and where its checkpoint lets each source begin."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from rudderpipe.errors import IngestionError, RingUnavailable, SettingsError
from rudderpipe.ingestion import checkpoint, mapping
from rudderpipe.ingestion.block import Position
from rudderpipe.ingestion.checkpoint import Checkpoint, Counts, SourceState
from rudderpipe.ingestion.checkpoint_file import CheckpointFile
from rudderpipe.ingestion.formats import FORMATS
from rudderpipe.ingestion.mapping import Mapping
from rudderpipe.ingestion.source import STANDARD_INPUT, Source, identity
from rudderpipe.process import state_dir
from rudderpipe.process.clock import Clock
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.settings import Settings

PIPES = 16
"""How many ingestions without a checkpoint may run at once with the same settings and sources."""
_NAME_CHARACTERS = 40
_not_safe = re.compile(r"[^A-Za-z0-9_.-]+")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options that decide which records are read and which messages they become."""

    format: str | None = None
    maps: tuple[str, ...] = ()
    event: str | None = None
    type: str | None = None
    timestamp: str | None = None
    timestamp_format: str | None = None
    from_number: int = 1
    until_number: int | None = None

    def mapping(self) -> Mapping | None:
        """Return the mapping that the options describe; raise ``SettingsError``, also for an unknown format."""
        if self.format is not None and self.format not in FORMATS:
            raise SettingsError("--format", f"must be one of {', '.join(FORMATS)}")
        if self.until_number is not None and self.until_number < self.from_number:
            raise SettingsError("--until-line", f"must not be before --from-line {self.from_number:,}")
        return mapping.parse(
            self.maps,
            event=self.event,
            type=self.type,
            timestamp=self.timestamp,
            timestamp_format=self.timestamp_format,
        )

    def digest(self) -> str:
        """Return a digest of the options."""
        return _digest(msgspec.json.encode(self).decode())


class Step(NamedTuple):
    """One source, and where to begin; ``start`` is None at its beginning."""

    source: Source
    state: SourceState
    start: Position | None
    is_done: bool


class Plan(NamedTuple):
    """What an ingestion has to do."""

    steps: list[Step]
    saved: CheckpointFile
    is_resumed: bool

    @property
    def is_finished(self) -> bool:
        """True if an earlier run has sent everything."""
        return self.saved.checkpoint.is_finished and all(step.is_done for step in self.steps)


def is_file(source: Source) -> bool:
    """Return whether a source is a file, which can be read again; standard input and pipes cannot."""
    return source.path != STANDARD_INPUT and Path(source.path).is_file()


def own_pipe(
    settings: Settings, name: str, given: Sequence[str], checkpoint_path: Path | None, clock: Clock
) -> tuple[Settings, Ring]:
    """Return settings with a pipe of this ingestion's own, whose account counts only its events.

    The name shows ``name``, and is the same in each run with the same sources, settings and checkpoint. The pipe
    belongs to this process as long as the caller keeps the ring. Raises ``IngestionError`` if another process has the
    pipe of the same checkpoint.
    """
    places = [path if path == STANDARD_INPUT else str(Path(path).absolute()) for path in given]
    digest = _digest(settings.pipe_name, str(checkpoint_path), *places)[:8]
    safe = _not_safe.sub("_", name).strip("._-")[:_NAME_CHARACTERS] or "records"
    numbers = range(1) if checkpoint_path is not None else range(PIPES)
    for number in numbers:
        own = msgspec.structs.replace(settings, pipe=f"send-{safe}-{digest}{f'-{number}' if number else ''}")
        ring = open_ring(own, clock)
        if ring.locks.try_lock(at.LOCK_OWNER):
            return own, ring
    if checkpoint_path is not None:
        raise IngestionError(name, "is being sent by another process, with the same settings and checkpoint")
    raise RingUnavailable(f"send-{safe}", f"{PIPES} other processes are sending with the same settings")


def default_checkpoint(settings: Settings, name: str, given: Sequence[str]) -> Path:
    """Return the path of the checkpoint, named by the source and the pipe, in the state directory."""
    places = [str(Path(path).absolute()) for path in given]
    safe = _not_safe.sub("_", name).strip("._-")[:_NAME_CHARACTERS] or "records"
    digest = _digest(settings.pipe_name, *places)
    return state_dir.ensure(settings) / f"{safe}-{digest}{checkpoint.SUFFIX}"


def plan(
    sources: Sequence[Source], options: Options, pipe: str, checkpoint_path: Path | None, *, again: bool = False
) -> Plan:
    """Return what is to be done; raise ``IngestionError`` for a checkpoint that does not fit.

    ``again`` begins anew whatever the checkpoint says. Sources go in the order of the checkpoint, and then in the given
    one, because the ring may hold events of the first order.
    """
    found = None if checkpoint_path is None else checkpoint.load(checkpoint_path)
    if found is not None and again and checkpoint_path is not None:
        try:
            checkpoint_path.unlink()
        except OSError as error:
            raise IngestionError(str(checkpoint_path), f"the checkpoint cannot be removed: {error.strerror}") from None
        found = None
    if found is None or checkpoint_path is None:
        states = [SourceState(source.path, source.id_name) for source in sources]
        new = Checkpoint(checkpoint.KIND, pipe, options.digest(), states, Counts())
        steps = [Step(source, state, None, is_done=False) for source, state in zip(sources, states, strict=True)]
        return Plan(steps, CheckpointFile(checkpoint_path, new), is_resumed=False)
    _check(found, sources, options, pipe, checkpoint_path)
    by_place = {checkpoint.place_of(source.path): source for source in sources}
    for source in sources:
        if found.state_of(source) is None:
            found.sources.append(SourceState(source.path, source.id_name))
    steps = [_step(by_place[checkpoint.place_of(state.path)], state, found) for state in found.sources]
    return Plan(steps, CheckpointFile(checkpoint_path, found), is_resumed=True)


def _check(found: Checkpoint, sources: Sequence[Source], options: Options, pipe: str, path: Path) -> None:
    name = str(path)
    anew = "give --again to send everything anew, or another --checkpoint"
    if found.pipe != pipe:
        raise IngestionError(name, f"the checkpoint is for another write key, data plane or queue; {anew}")
    if found.options != options.digest():
        raise IngestionError(name, f"the checkpoint was made with other options, such as --map; {anew}")
    given = {checkpoint.place_of(source.path) for source in sources}
    missing = [state.path for state in found.sources if checkpoint.place_of(state.path) not in given]
    if missing:
        raise IngestionError(name, f"the checkpoint is of other files, such as {min(missing)}; {anew}")


def _step(source: Source, state: SourceState, found: Checkpoint) -> Step:
    """Return where a source goes on; raise ``IngestionError`` if it is another file than it was.

    Its records keep the name in their ids, also if the file is named by another path now.
    """
    source, state.path = Source(source.path, state.id_name), source.path
    if state.identity is None:
        return Step(source, state, state.position if state.position != Position() else None, is_done=state.is_done)
    why = state.identity.change(source)
    if why is not None:
        raise IngestionError(
            source.path,
            f"has changed since the checkpoint of {found.saved_at}: {why}; give --again to send it from its beginning",
        )
    has_grown = identity(source, state.read_bytes).size_bytes > state.identity.size_bytes
    is_done = state.is_done and not has_grown
    state.is_done = is_done
    return Step(source, state, state.position, is_done=is_done)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def name_of(given: Sequence[str]) -> str:
    """Return the name by which people know the sources: that of the first file or folder."""
    first = given[0]
    return "stdin" if first == STANDARD_INPUT else Path(os.path.normpath(first)).name or "root"
