"""The parts that every message has, and the one place where it is encoded."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw

from rudderpipe._version import LIBRARY, VERSION
from rudderpipe.encoder import encode
from rudderpipe.messages import encode as values
from rudderpipe.messages import validate
from rudderpipe.messages.ids import MessageIds

CHANNEL = "server"
LIBRARY_PART = {"name": LIBRARY, "version": VERSION}
CONTEXT = Raw(encode({"library": LIBRARY_PART}))
"""The context of a message that was given none."""
message_ids = MessageIds()


def context(given: Any, traits: Any = UNSET) -> Any:
    """Return the context in plain types, with our library in it, and an identify's traits, which replace any there.

    The traits must be plain already.
    """
    whole = validate.mapping("context", given)
    if whole is UNSET:
        if traits is UNSET:
            return CONTEXT
        whole = {}
    if traits is not UNSET:
        whole["traits"] = traits
    whole["library"] = LIBRARY_PART
    return whole


def encoded(message: dict[str, Any], *, was_encoded: bool = False) -> bytes:
    """Return the JSON of a message of any values; raises ``EventError`` with the path of what JSON cannot hold.

    ``was_encoded``: it is a message of ours, decoded and changed, whose context may hold traits one deeper than given.
    """
    return values.encode_message(values.nested(message, "", depth=-1 if was_encoded else 0))
