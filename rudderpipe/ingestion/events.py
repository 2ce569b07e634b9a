"""The events of records: each record's message, with an id, as the JSON that goes into the ring."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from rudderpipe.errors import EventError, EventTooLarge
from rudderpipe.ingestion import whole_lines
from rudderpipe.ingestion.block import PREVIEW_BYTES, Block, Reject
from rudderpipe.ingestion.history import History
from rudderpipe.messages import encode, foreign, validate, wire
from rudderpipe.messages.context import current
from rudderpipe.messages.defaults import Defaults
from rudderpipe.messages.processors import Shaper
from rudderpipe.settings import EVENT_LIMIT_BYTES
from rudderpipe.transports.base import Encoded

DROPPED = "dropped by sampling or before_send"
TOO_LARGE = "is too large"
RecordId = Callable[[int, bytes], str]
"""Returns the message id of a record without one, from its offset and its text."""
_decode = msgspec.json.Decoder(float_hook=encode.number).decode
_index = re.compile(r"\[\d+\]")


class Events:
    """The maker of the events of one ingestion, with the defaults and the shaper of a client."""

    def __init__(self, defaults: Defaults, shaper: Shaper | None) -> None:
        self._defaults = defaults
        self._shaper = shaper
        self.history: History | None = None
        """Looks at the times of the source's records."""

    def of(self, block: Block, first: int, end: int, record_id: RecordId) -> list[Encoded | Reject]:
        """Return the event, or the reject, of each record of a block from ``first`` until before ``end``."""
        texts = block.texts[first:end]
        if block.messages is not None:
            return [self._of_message(block.messages[index], block, index, record_id) for index in range(first, end)]
        if self._shaper is not None or self._defaults.adds or current.get():
            return [self._of_text(block, index, record_id) for index in range(first, end)]
        made: list[Encoded | Reject] = []
        history = self.history
        for index, whole in enumerate(whole_lines.decoded(texts), first):
            event: Encoded | Reject | None = None
            if whole is not None:
                text = block.texts[index]
                if whole.messageId is UNSET:
                    whole.messageId = record_id(block.offsets[index], text)
                moment = whole.timestamp if whole.originalTimestamp is UNSET else whole.originalTimestamp
                if type(whole.messageId) is str and whole.messageId:
                    event = whole_lines.event_of(whole, text)
                if event is not None and history is not None and moment is not UNSET:
                    history.see_time(moment, block.numbers[index])
            made.append(self._of_text(block, index, record_id) if event is None else event)
        return made

    def _of_text(self, block: Block, index: int, record_id: RecordId) -> Encoded | Reject:
        """Return the event of a record that is JSON, in the general way."""
        text = block.texts[index]
        try:
            message = parsed(text)
        except RecursionError:
            return _reject(block, index, "is nested too deeply")
        except ArithmeticError:
            return _reject(block, index, "has a number whose exponent is too large")
        except ValueError:
            return _reject(block, index, "is not JSON")
        if type(message) is not dict:
            return _reject(block, index, "is not a JSON object")
        return self._of_message(message, block, index, record_id)

    def _of_message(self, message: dict[str, Any], block: Block, index: int, record_id: RecordId) -> Encoded | Reject:
        try:
            if not _has_id(message):
                message["messageId"] = record_id(block.offsets[index], block.texts[index])
            data: Encoded | None = self._defaults.encoded_whole(message)
            if self.history is not None:
                self.history.see(message, block.numbers[index])
            if data is not None and self._shaper is not None:
                data = self._shaper.shape(data)
        except EventTooLarge as error:
            return _reject(block, index, TOO_LARGE, error.reason)
        except EventError as error:
            hint = _map_hint(error, message)
            return _reject(block, index, _kind_of(error) + hint, str(error) + hint)
        if data is None:
            return _reject(block, index, DROPPED)
        if len(data) > EVENT_LIMIT_BYTES:
            reason = EventTooLarge(len(data), EVENT_LIMIT_BYTES).reason
            return _reject(block, index, TOO_LARGE, reason)
        return data


def parsed(text: bytes) -> Any:
    """Return the value of a JSON text with all digits of its numbers; raise ``ValueError`` or ``ArithmeticError``."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return foreign.parsed(text)  # it also reads lone surrogates and integers of any size


def _has_id(message: dict[str, Any]) -> bool:
    """Return whether the message has an id that is sent; otherwise a new one would be made in each run."""
    own = message.get("messageId")
    if type(own) is str:
        return bool(own)
    return not validate.is_falsy(own) and validate.usable_message_id("messageId", own) is not UNSET


def _reject(block: Block, index: int, kind: str, reason: str = "") -> Reject:
    text = block.texts[index]
    size = len(text)
    kept = text if size <= EVENT_LIMIT_BYTES else text[:PREVIEW_BYTES]
    return Reject(block.numbers[index], block.offsets[index], kind, reason or kind, kept, size)


def _map_hint(error: EventError, message: dict[str, Any]) -> str:
    """Return the option that maps a misspelt field, if the error is about one; else an empty text."""
    names = ("userId", "anonymousId") if error.field == "userId" else (error.field,)
    found = [f" (--map {name}={key})" for name in names if (key := wire.misspelt(name, message))]
    return found[0] if found else ""


def _kind_of(error: EventError) -> str:
    """Return an error without what differs from record to record, such as a key within properties."""
    field = _index.sub("", error.field).partition(".")[0]
    return f"{field}: {error.reason}"
