"""One run of an ingestion: its sources are read, sent and followed until their events are delivered."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from rudderpipe import encoder
from rudderpipe.errors import EventError, IngestionError
from rudderpipe.ingestion.block import Block, Position, Reject
from rudderpipe.ingestion.engine import Engine
from rudderpipe.ingestion.events import RecordId
from rudderpipe.ingestion.formats import BATCH, CSV, NDJSON, TSV
from rudderpipe.ingestion.plan import Options, Plan, Step
from rudderpipe.ingestion.reader import Reader
from rudderpipe.ingestion.record_ids import ids_of
from rudderpipe.messages import encode
from rudderpipe.messages.wire import message_ids
from rudderpipe.transports.sending import CHUNK_EVENTS, CHUNK_S

LINES = (NDJSON, BATCH, CSV, TSV)


class Run:
    """The run of a plan over files.

    ``is_reading`` is True while a source is waited for, so that a signal handler may raise there and nowhere else.
    """

    def __init__(self, engine: Engine, plan: Plan, options: Options) -> None:
        self.engine = engine
        self.is_reading = False
        self.damage: IngestionError | None = None
        """The error that ended the reading of a source in its middle."""
        self._plan = plan
        self._format = options.format
        self._mapping = options.mapping()

    def check(self) -> None:
        """Open each file once, so that one in a wrong format is found before anything is sent."""
        for step in self._plan.steps:
            if not step.is_done and step.start is None and os.path.isfile(step.source.path):  # noqa: PTH113  # no Path
                Reader(step.source, format=self._format, mapping=self._mapping).close()

    def steps(self) -> Iterator[float]:
        """Read and send all sources; yield the seconds to wait before the next step.

        A source that is damaged ends the run; ``damage`` is its error, and what came before the damage is sent.
        """
        for step in self._plan.steps:
            if step.is_done:
                self.engine.skip_source(step.state.read_bytes)
                continue
            try:
                yield from self._source(step)
            except IngestionError as error:
                self.damage = error
                return
            if self.engine.stopping:
                return

    def _source(self, step: Step) -> Iterator[float]:
        engine = self.engine
        self.is_reading = True  # also while it is opened, because a pipe that nobody writes to lets open() wait
        try:
            if engine.stopping:
                return
            opened = Reader(step.source, format=self._format, mapping=self._mapping)
        finally:
            self.is_reading = False
        with opened as reader:
            engine.begin(step.source, step.state, step.start, reader, ids_of(step.source))
            blocks = reader.blocks(step.start)
            while not engine.stopping:
                self.is_reading = True
                try:
                    block = next(blocks, None)
                finally:
                    self.is_reading = False
                if block is not None:
                    yield from engine.feed(block)
                if not engine.stopping and (block is None or engine.source_over):
                    engine.end_source(is_open=block is None and _is_open(reader))
                    return
                yield 0.0


def _is_open(reader: Reader) -> bool:
    """Return whether a plain file of lines ends without the end of a line, perhaps because it is being written."""
    if reader.compression != "none" or reader.format not in LINES or not reader.size_bytes:
        return False
    with open(reader.source.path, "rb") as file:  # noqa: PTH123  # one byte is read
        file.seek(max(0, reader.read_bytes - 1))
        return file.read(1) not in (b"\n", b"")


class _Unread:
    read_bytes = 0
    file_id = None


class Items:
    """The messages of an iterable, as blocks; ``name`` goes into the ids of messages without one.

    Without a name such messages get random ids.
    """

    def __init__(self, engine: Engine, step: Step, name: str | None) -> None:
        self._engine = engine
        self._name = name
        self._number = step.start.number if step.start is not None else 1
        self._skipped = self._number - 1
        self._messages: list[dict[str, Any]] = []
        self._texts: list[bytes] = []
        self._numbers: list[int] = []
        self._rejects: list[Reject] = []
        self._since_s = time.monotonic()
        record_id: RecordId = ids_of(step.source) if name is not None else lambda _offset, _text: message_ids.new()
        engine.begin(step.source, step.state, step.start, _Unread(), record_id)

    def add(self, item: object) -> bool:
        """Take one item; return whether the block should be sent now."""
        if self._skipped:
            self._skipped -= 1
            return False
        number = self._number
        self._number += 1
        try:
            message = self._copied(item)
            text = encoder.encode(encode.plain(message, "", depth=-1)) if self._name is not None else b""
        except EventError as error:
            reason = str(error)
            self._rejects.append(Reject(number, number - 1, reason, reason, b"", 0))
        else:
            self._messages.append(message)
            self._texts.append(text)
            self._numbers.append(number)
        return len(self._messages) + len(self._rejects) >= CHUNK_EVENTS or time.monotonic() - self._since_s >= CHUNK_S

    @staticmethod
    def _copied(item: object) -> dict[str, Any]:
        if not isinstance(item, Mapping):
            raise EventError("message", f"must be a mapping, not {type(item).__name__}")
        return encode.shallow(item, "message")

    def send(self) -> Iterator[float]:
        """Send what was taken."""
        numbers = self._numbers
        block = Block(
            self._texts,
            numbers,
            [number - 1 for number in numbers],
            Position(self._number, self._number - 1),
            messages=self._messages,
            rejects=self._rejects,
        )
        self._messages, self._texts, self._numbers, self._rejects = [], [], [], []
        yield from self._engine.feed(block)
        self._since_s = time.monotonic()

    def steps(self, items: Iterator[object]) -> Iterator[float]:
        """Read and send all items of an iterable."""
        for item in items:
            if self.add(item):
                yield from self.send()
                yield 0.0
            if self._engine.stopping:
                return
        yield from self.end()

    def end(self) -> Iterator[float]:
        """Send the rest, and note the end."""
        yield from self.send()
        if not self._engine.stopping:
            self._engine.end_source()

    async def feed(self, items: AsyncIterator[object], wait: Callable[[Iterator[float]], Any]) -> None:
        """Read and send all items of an asynchronous iterable; ``wait`` awaits the steps."""
        async for item in items:
            if self.add(item):
                await wait(self.send())
        await wait(self.end())


def ending(engine: Engine, *, delivery: bool) -> Iterator[float]:
    """Hand over what was read to its end, and wait for its delivery if that is wanted."""
    yield from engine.hand_over()
    engine.finish()
    if delivery:
        yield from engine.await_delivery()


def run(steps: Iterator[float]) -> None:
    """Run steps in this thread."""
    for wait_s in steps:
        if wait_s:
            time.sleep(wait_s)


async def run_in_turn(steps: Iterator[float]) -> None:
    """Run steps for asyncio: other tasks run between them."""
    import asyncio

    for wait_s in steps:
        await asyncio.sleep(wait_s)


def keep(engine: Engine) -> None:
    """Store what is certain after an exception, as far as that is possible."""
    with suppress(Exception):
        engine.save()
