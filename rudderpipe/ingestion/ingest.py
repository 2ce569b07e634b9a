"""``rudderpipe.ingest`` and ``rudderpipe.aingest``: the engine of ``rudderpipe send`` for a program's own records."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rudderpipe.client import Client, default_client
from rudderpipe.errors import SettingsError
from rudderpipe.ingestion import pace, plan, run
from rudderpipe.ingestion.destination import Destination, RingDestination, TransportDestination
from rudderpipe.ingestion.engine import Engine
from rudderpipe.ingestion.events import Events
from rudderpipe.ingestion.plan import Options, Plan, Step
from rudderpipe.ingestion.rejects import Rejects
from rudderpipe.ingestion.result import Ingested, IngestionProgress
from rudderpipe.ingestion.source import Source, find_sources
from rudderpipe.process.clock import Clock
from rudderpipe.ring import flusher_lock
from rudderpipe.ring.ring import Ring, find
from rudderpipe.settings import Settings
from rudderpipe.transports.ring import Pipe

PathLike = str | os.PathLike[str]
Report = Callable[[IngestionProgress], object]


def ingest(
    source: PathLike | Iterable[Any],
    *,
    client: Client | Settings | None = None,
    checkpoint: PathLike | None = None,
    again: bool = False,
    name: str | None = None,
    rejects: PathLike | None = None,
    rate: float | str | None = None,
    progress: Report | None = None,
    wait: bool = True,
    pattern: str | None = None,
    **options: Any,
) -> Ingested:
    """Send the records of a file, of several, or of any iterable of whole messages; return what became of them.

    ``source`` is a path, a list of paths, or an iterable of mappings with the names of the wire: rows of a cursor, the
    records of a data frame, a generator. It waits for room in the ring, so no event is refused because the ring is
    full, and memory stays flat.

    Without ``client`` the records go through a pipe of their own, with the settings, ``before_send`` and so on of the
    default client, so that they do not take the room of the application's other events. The same is true for a
    ``Settings``. A client that is given is used itself, with its pipe.

    ``checkpoint`` is a file in which the call keeps how far it is: a later call with the same arguments goes on there,
    and ``again`` begins anew. An iterable must yield the same records again then. ``name`` is the name of an iterable,
    which goes into the ids of its messages without ``messageId``; without a name and a checkpoint those are random.
    ``rejects`` is a file for the records that are no events. ``rate`` bounds the events a second: ``500``, ``"30k/s"``.
    ``progress`` is called a few times a second with an ``IngestionProgress``. ``on_error`` of the client is not called.

    With ``wait`` the call ends when every event is delivered or failed, otherwise once the events are in Redis; in
    direct mode this is the same. ``options`` are those of ``rudderpipe send``: ``format``, ``map`` (a list of
    ``TARGET=COLUMN``), ``event``, ``type``, ``timestamp``, ``timestamp_format``, ``from_line`` and ``until_line``.

    Raises ``IngestionError`` for a file that cannot be read or is damaged, after what comes before the damage was sent;
    ``SettingsError``; ``RingUnavailable``; and whatever the iterable raises. What was accepted stays accepted.
    """
    if isinstance(source, AsyncIterable):
        raise SettingsError("source", "is an asynchronous iterable; use aingest")
    call = _Call(source, client, checkpoint, name, rejects, rate, progress, pattern, _options_of(options), again=again)
    with call:
        run.run(call.steps())
        run.run(run.ending(call.engine, delivery=wait))
    return call.result()


async def aingest(
    source: PathLike | Iterable[Any] | AsyncIterable[Any],
    *,
    client: Client | Settings | None = None,
    checkpoint: PathLike | None = None,
    again: bool = False,
    name: str | None = None,
    rejects: PathLike | None = None,
    rate: float | str | None = None,
    progress: Report | None = None,
    wait: bool = True,
    pattern: str | None = None,
    **options: Any,
) -> Ingested:
    """Send records as ``ingest`` does, for asyncio; ``source`` may also be an asynchronous iterable.

    Other tasks run between chunks of 64 records, and while this one waits for room.
    """
    call = _Call(source, client, checkpoint, name, rejects, rate, progress, pattern, _options_of(options), again=again)
    with call:
        if isinstance(source, AsyncIterable):
            items = run.Items(call.engine, call.plan.steps[0], call.name)
            await items.feed(source.__aiter__(), run.run_in_turn)
        else:
            await run.run_in_turn(call.steps())
        await run.run_in_turn(run.ending(call.engine, delivery=wait))
    return call.result()


_NAMES = {"map": "maps", "from_line": "from_number", "until_line": "until_number"}


def _options_of(given: Mapping[str, Any]) -> Options:
    known = {_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    if isinstance(known.get("maps"), str):
        known["maps"] = [known["maps"]]
    try:
        return msgspec.convert(known, Options, strict=True)
    except msgspec.ValidationError as error:
        wrong = next((name for name in given if _NAMES.get(name, name) not in Options.__struct_fields__), None)
        if wrong is not None:
            raise SettingsError(wrong, "is no argument of ingest") from None
        raise SettingsError("ingest", f"has a wrong option: {error}") from None


class _Call:
    """One call: its client, its pipe and its engine, and what releases them at its end."""

    def __init__(
        self,
        source: Any,
        client: Client | Settings | None,
        checkpoint: PathLike | None,
        name: str | None,
        rejects: PathLike | None,
        rate: float | str | None,
        report: Report | None,
        pattern: str | None,
        options: Options,
        *,
        again: bool,
    ) -> None:
        options.mapping()
        limit = None if rate is None else pace.Pace(pace.parse(rate))
        path = None if checkpoint is None else Path(os.fspath(checkpoint)).absolute()
        paths = _paths_of(source)
        self._items = source
        self._options = options
        self._clock = Clock()
        if paths is None:
            if options.mapping() is not None or options.format is not None:
                raise SettingsError("source", "must be a file for map, event, type, timestamp and format")
            self.name = name or (path.name if path is not None else None)
            sources = [Source(f"iterable:{self.name or ''}", self.name or "")]
        else:
            self.name = name
            sources = find_sources(paths, pattern)
        self._is_iterable = paths is None
        self._client, is_given = _client_of(client)
        base = self._client.settings
        self.plan: Plan = plan.plan(sources, options, base.pipe_name, path, again=again)
        shown = self.name or "records" if paths is None else plan.name_of(paths)
        self._pipe: Pipe | None = None
        self._kept: Ring | None = None
        destination = self._destination(shown, paths or [sources[0].path], path, is_given=is_given)
        kept_bytes = self.plan.saved.checkpoint.rejects_bytes
        intake = self._client._intake  # noqa: SLF001  # the engine makes and shapes messages as the client does
        self.engine = Engine(
            destination,
            Events(intake.defaults, intake.shaper),
            self.plan.saved,
            self._clock,
            pace=limit,
            rejects=None if rejects is None else Rejects(os.fspath(rejects), kept_bytes=kept_bytes),
            from_number=options.from_number,
            until_number=options.until_number,
            size_bytes=_size_bytes(sources),
            report=report,
        )
        self._run = run.Run(self.engine, self.plan, options)
        self._result = Ingested()

    def _destination(self, shown: str, given: Sequence[str], path: Path | None, *, is_given: bool) -> Destination:
        intake = self._client._intake  # noqa: SLF001  # as above
        transport = intake.transport
        if not isinstance(transport, Pipe):
            return TransportDestination(transport)
        settings = self._client.settings.for_processes()
        if is_given or settings.pipe is not None:
            return RingDestination(transport, self._clock, is_own=False)
        own, self._kept = plan.own_pipe(settings, shown, given, path, self._clock)
        self._pipe = Pipe(own, self._clock)
        return RingDestination(self._pipe, self._clock, is_own=True)

    def steps(self) -> Iterator[float]:
        """Read and send everything."""
        if self._is_iterable:
            yield from run.Items(self.engine, self._first(), self.name).steps(iter(self._items))
            return
        if self.plan.is_finished:
            return
        self._run.check()
        yield from self._run.steps()

    def _first(self) -> Step:
        return self.plan.steps[0]

    def __enter__(self) -> _Call:
        try:
            self.engine.open()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            run.keep(self.engine)
        else:
            self._result = self.engine.result(complete=self._run.damage is None)
        self._release()

    def _release(self) -> None:
        self.engine.close()
        if self._pipe is not None:
            self._pipe.shut()
            if not self.engine.counts.accepted and (ring := find(self._pipe.settings)):
                flusher_lock.close_unused(ring)

    def result(self) -> Ingested:
        """Return the result; raise the error that ended the reading of a file in its middle."""
        if self._run.damage is not None:
            raise self._run.damage
        return self._result


def _paths_of(source: Any) -> list[str] | None:
    """Return the paths that a source consists of; None for an iterable of messages."""
    if isinstance(source, (str, os.PathLike)):
        return [os.fspath(source)]
    if isinstance(source, (list, tuple)) and source and all(isinstance(each, (str, os.PathLike)) for each in source):
        return [os.fspath(each) for each in source]
    if isinstance(source, (bytes, Mapping)) or not isinstance(source, (Iterable, AsyncIterable)):
        raise SettingsError("source", f"must be a path or an iterable of mappings, not {type(source).__name__}")
    return None


def _client_of(given: Client | Settings | None) -> tuple[Client, bool]:
    """Return the client, and whether it is to be used with its own pipe."""
    if isinstance(given, Client):
        return given, True
    if given is None:
        return default_client(), False
    if isinstance(given, Settings):
        return Client(settings=given), False
    raise SettingsError("client", f"must be a Client or a Settings, not {type(given).__name__}")


def _size_bytes(sources: Sequence[Source]) -> int | None:
    if not all(map(plan.is_file, sources)):
        return None
    return sum(Path(source.path).stat().st_size for source in sources)
