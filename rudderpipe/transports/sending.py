"""The sending of many messages in one call, which puts their events into the ring in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from sys import intern

from rudderpipe.errors import RudderpipeError
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.transports.base import Encoded
from rudderpipe.types import Sent

CHUNK_EVENTS = 64
CHUNK_BYTES = 32_768
"""An event of more bytes is a chunk of its own."""
CHUNK_S = 0.01


class Sending:
    """The messages of one ``send_many``: the events of the open chunk, and what became of the messages before it.

    A chunk ends with ``most`` events or ``CHUNK_BYTES``, and when ``CHUNK_S`` have passed since the last chunk ended.
    So an event waits in this process only while the iterable returns its messages quickly. If the iterable forks, the
    chunk is the parent's, and the child sends only the messages that it takes itself.

    ``take`` takes the first of several events, and returns how many, and the error of the next one if that was refused.
    ``wrong`` counts a message that cannot be sent, and returns its error. Both raise that error instead if the settings
    ask for it.
    """

    def __init__(
        self,
        take: Callable[[Sequence[Encoded]], tuple[int, RudderpipeError | None]],
        wrong: Callable[[Exception], RudderpipeError],
        clock: Clock,
        most: int,
    ) -> None:
        self._take = take
        self._wrong = wrong
        self._clock = clock
        self._most = most
        self._chunk: list[Encoded] = []
        self._first = 0
        """The index of the chunk's first message; the others follow it without a gap."""
        self._accepted = 0
        self._refused: dict[int, str] = {}
        fork.forget_in_children(self)

    def forget(self) -> None:
        """Drop the chunk in a forked child, because the parent sends it."""
        self._first += len(self._chunk)
        self._chunk.clear()

    def run(self, messages: Iterable[object], encoded: Callable[[object], Encoded]) -> Sent:
        """Encode and send the messages in their order; an error that ends this has the result so far as ``sent``."""
        try:
            try:
                self._add_all(messages, encoded)
            finally:
                self._end_chunk()
        except BaseException as error:
            with suppress(Exception):  # an error of the application may have a ``sent`` that cannot be set
                error.sent = self._sent()  # type: ignore[attr-defined]  # only errors of ours declare it
            raise
        return self._sent()

    def _sent(self) -> Sent:
        return Sent(self._accepted, self._refused)

    def _add_all(self, messages: Iterable[object], encoded: Callable[[object], Encoded]) -> None:
        chunk, most, monotonic_s = self._chunk, self._most, self._clock.monotonic_s
        size, last, end_s = 0, most - 1, monotonic_s() + CHUNK_S
        for index, message in enumerate(messages):
            if not fork.PAGE[0]:
                fork.renew()
            try:
                data = encoded(message)
            except Exception as error:  # noqa: BLE001  # no call raises because of a wrong event
                self._end_chunk()
                self._refuse_wrong(index, error)
                size, last = 0, index + most
                continue
            size += len(data)
            if size > CHUNK_BYTES:
                self._end_chunk()
                size = len(data)
                last = index if size > CHUNK_BYTES else index + most - 1
            chunk.append(data)
            if index >= last or monotonic_s() >= end_s:
                self._end_chunk()
                size, last, end_s = 0, index + most, monotonic_s() + CHUNK_S

    def _refuse_wrong(self, index: int, error: Exception) -> None:
        self._first = index + 1
        try:
            self._refuse(index, self._wrong(error))
        except RudderpipeError as raised:
            self._refuse(index, raised)
            raise

    def _end_chunk(self) -> None:
        """Send the events of the chunk, which is empty afterwards, also after an error."""
        if not fork.PAGE[0]:
            fork.renew()
        events, first = self._chunk[:], self._first
        self._chunk.clear()
        self._first += len(events)
        while events:
            try:
                number, error = self._take(events)
            except RudderpipeError as raised:
                self._refuse(first, raised)
                raise
            self._accepted += number
            first += number
            del events[:number]
            if error is not None:
                self._refuse(first, error)
                first += 1
                del events[0]

    def _refuse(self, index: int, error: RudderpipeError) -> None:
        self._refused[index] = intern(str(error))  # one text for all events that were refused for one reason
