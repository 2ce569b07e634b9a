"""The JSON text of a record, read with all digits of its numbers, or the reason why it is no message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from rudderpipe.ingestion.block import Block, Reject, reject
from rudderpipe.ingestion.conversion import Unfit
from rudderpipe.messages import encode, foreign

_decode = msgspec.json.Decoder(float_hook=encode.number).decode


class NotAnObject(Exception):
    """A text is no JSON object; the error's text says why, without any part of it."""


def parsed(text: bytes) -> dict[str, Any]:
    """Return a JSON object, with lone surrogates and integers of any size; raise ``NotAnObject``."""
    try:
        value = _value(text)
    except RecursionError:
        raise NotAnObject("is nested too deeply") from None
    except ArithmeticError:
        raise NotAnObject("has a number whose exponent is too large") from None
    except UnicodeDecodeError:
        raise NotAnObject("is not UTF-8") from None
    except ValueError:
        raise NotAnObject("is not JSON") from None
    if type(value) is not dict:
        raise NotAnObject("is not a JSON object")
    return value


def mapped(blocks: Iterable[Block], to_message: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[Block]:
    """Yield the blocks with a message for each record; a record that does not fit becomes a reject."""
    for block in blocks:
        messages: list[dict[str, Any]] = []
        refused: dict[int, Reject] = {}
        for index, text in enumerate(block.texts):
            try:
                messages.append(to_message(parsed(text)))
            except (NotAnObject, Unfit) as error:
                refused[index] = reject(block.numbers[index], block.offsets[index], str(error), text)
        if refused:
            block = block.without(refused)
        block.messages = messages
        yield block


def _value(text: bytes) -> Any:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return foreign.parsed(text)
