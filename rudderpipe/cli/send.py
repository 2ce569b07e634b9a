"""The command ``rudderpipe send``, which sends the events of files and goes on where an earlier run was."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from rudderpipe.cli.ingestion_view import View
from rudderpipe.client import Client
from rudderpipe.errors import RudderpipeError
from rudderpipe.ingestion import pace, plan, run
from rudderpipe.ingestion.checkpoint import Checkpoint
from rudderpipe.ingestion.destination import Destination, RingDestination, TransportDestination
from rudderpipe.ingestion.engine import Engine
from rudderpipe.ingestion.events import Events
from rudderpipe.ingestion.plan import Options, Plan
from rudderpipe.ingestion.rejects import Rejects
from rudderpipe.ingestion.source import Source, find_sources
from rudderpipe.log_text import counted
from rudderpipe.messages.defaults import Defaults
from rudderpipe.process.clock import Clock
from rudderpipe.ring import flusher_lock
from rudderpipe.ring.ring import Ring, find
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK
from rudderpipe.settings import Settings
from rudderpipe.transports.base import NullTransport
from rudderpipe.transports.ring import Pipe


class Given(msgspec.Struct, kw_only=True):
    """The arguments of the command, except for the settings."""

    paths: list[str]
    options: Options
    pattern: str | None = None
    checkpoint: str | None = None
    no_checkpoint: bool = False
    again: bool = False
    dry_run: bool = False
    rate: str | None = None
    rejects: str | None = None
    as_json: bool = False


class Interrupted(Exception):
    """A signal came while a source was waited for."""


def send(settings: Settings, given: Given) -> int:
    """Send the events of the given files; return the exit code."""
    if not given.dry_run:
        settings.require("write_key", "data_plane_url")
    given.options.mapping()
    limit = None if given.rate is None else pace.Pace(pace.parse(given.rate))
    sources = find_sources(given.paths, given.pattern)
    clock = Clock()
    path = None if given.dry_run else _checkpoint_path(settings, given, sources)
    planned = plan.plan(sources, given.options, settings.pipe_name, path, again=given.again)
    if planned.is_finished:
        return _say_finished(planned, given)
    if settings.redis is not None and not given.dry_run:
        Client(settings=settings, strict=True).create_persistence_queue()  # raises when Redis cannot be used
    destination, pipe, _kept = _destination(settings, given, path, clock)
    rejects = None
    if given.rejects is not None and not given.dry_run:
        rejects = Rejects(given.rejects, kept_bytes=planned.saved.checkpoint.rejects_bytes)
    view = View(as_json=given.as_json)
    engine = Engine(
        destination,
        Events(Defaults(None, None, None), None),
        planned.saved,
        clock,
        pace=None if given.dry_run else limit,
        rejects=rejects,
        from_number=given.options.from_number,
        until_number=given.options.until_number,
        size_bytes=_size_bytes(sources),
        warn=view.warn,
        report=view.show,
    )
    running = run.Run(engine, planned, given.options)
    try:
        with _signals(running) as caught:
            code = _run(running, caught, settings)
    finally:
        view.end()
        engine.close()
        if pipe is not None:
            pipe.shut()
            if not engine.counts.accepted and (ring := find(pipe.settings)):
                flusher_lock.close_unused(ring)
    return _report(engine, running, view, given, settings, code, path)


def _checkpoint_path(settings: Settings, given: Given, sources: Sequence[Source]) -> Path | None:
    """Return where the checkpoint is; None if there is none."""
    if given.no_checkpoint:
        return None
    if not all(map(plan.is_file, sources)):
        if given.checkpoint is not None:
            print(
                "rudderpipe: standard input and pipes cannot be read again, so there is no checkpoint", file=sys.stderr
            )
        return None
    if given.checkpoint is not None:
        return Path(given.checkpoint).absolute()
    return plan.default_checkpoint(settings, plan.name_of(given.paths), given.paths)


def _destination(
    settings: Settings, given: Given, path: Path | None, clock: Clock
) -> tuple[Destination, Pipe | None, Ring | None]:
    """Return where events go, the pipe to release, and the ring to keep; a given ``pipe`` may have other users."""
    if given.dry_run:
        return TransportDestination(NullTransport()), None, None
    own, ring = settings, None
    if settings.pipe is None:
        own, ring = plan.own_pipe(settings, plan.name_of(given.paths), given.paths, path, clock)
    pipe = Pipe(own, clock)
    return RingDestination(pipe, clock, is_own=ring is not None), pipe, ring


def _size_bytes(sources: Sequence[Source]) -> int | None:
    if not all(map(plan.is_file, sources)):
        return None
    return sum(Path(source.path).stat().st_size for source in sources)


@contextmanager
def _signals(running: run.Run) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM end the reading, and a second one the command; yield the list of signals that came.

    The handler raises only while a source is waited for, because standard input may never have anything to read.
    """
    caught: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        running.engine.stopping = True
        if len(caught) > 1:
            raise KeyboardInterrupt
        if running.is_reading:
            raise Interrupted

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(running: run.Run, caught: list[int], settings: Settings) -> int | None:
    """Read, send and wait; return the exit code of a command that was stopped, None for others."""
    engine = running.engine
    try:
        running.check()
        engine.open()
        try:
            run.run(running.steps())
        except Interrupted:
            pass
        if caught:
            run.run(engine.hand_over(settings.shutdown_timeout_s))
        else:
            run.run(_until(run.ending(engine, delivery=True), lambda: bool(caught)))
    except RudderpipeError:
        run.keep(engine)
        raise
    except KeyboardInterrupt:
        run.keep(engine)
        if not caught:
            raise
    return 128 + caught[0] if caught else None


def _until(steps: Iterator[float], stopped: Callable[[], bool]) -> Iterator[float]:
    for wait_s in steps:
        if stopped():
            return
        yield wait_s


def _say_finished(planned: Plan, given: Given) -> int:
    found: Checkpoint = planned.saved.checkpoint
    counts = found.counts
    if given.as_json:
        print(msgspec.json.encode(_summary(None)).decode())
    else:
        print(
            f"everything was sent by {found.saved_at}: {counts.accepted:,} accepted, "
            f"{counted(counts.refused, 'record')} refused; nothing is sent now, --again sends it anew"
        )
    return EXIT_OK


def _summary(engine: Engine | None, *, complete: bool = True) -> dict[str, Any]:
    """Return the JSON of the summary; without an engine, that of a run that had nothing to do."""
    from rudderpipe.ingestion.result import Ingested

    result = Ingested() if engine is None else engine.result(complete=complete)
    found: dict[str, Any] = msgspec.to_builtins(result)
    found["rejected"] = found.pop("refused")
    return {**found, "left_over": 0 if engine is None or engine.following is None else engine.following.left_over}


def _report(
    engine: Engine, running: run.Run, view: View, given: Given, settings: Settings, code: int | None, path: Path | None
) -> int:
    """Print what became of the records, and return the exit code."""
    complete = code is None and running.damage is None
    result = engine.result(complete=complete)
    view.say_rest()
    if given.as_json:
        print(msgspec.json.encode(_summary(engine, complete=complete)).decode())
    else:
        view.summary(result, engine, dry_run=given.dry_run)
    for each in result.warnings:
        view.say(each)
    if running.damage is not None:
        view.say(str(running.damage))
    saved = engine.saved
    if saved.path is not None and saved.trouble:
        view.say(
            f"the checkpoint {saved.path} could not be written ({saved.trouble}), so another run would begin "
            "where the last one that could be written says, and send events again with the same ids"
        )
    if engine.rejects_trouble:
        view.say(f"the file of rejects is not complete: {engine.rejects_trouble}")
    if result.failed and settings.redis is None and not given.as_json:
        name = engine.destination.pipe.settings.pipe_name if isinstance(engine.destination, RingDestination) else ""
        view.say(f"failed events are kept; to list them: rudderpipe failed list --pipe {name}")
    if code is not None:
        how = "run the same command again to go on there" if path is not None else "there is no checkpoint to go on at"
        view.say(f"stopped after {counted(engine.counts.read, 'record')}; {how}")
        return code
    return EXIT_OK if result else EXIT_FAILED
