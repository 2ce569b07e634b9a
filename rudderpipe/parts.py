"""The parts that every message has, and the one place where it is encoded."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw

from rudderpipe import checks, values
from rudderpipe.message_ids import MessageIds
from rudderpipe.version import LIBRARY, VERSION

CHANNEL = "server"
LIBRARY_PART = {"name": LIBRARY, "version": VERSION}
encode = values.encode
CONTEXT = Raw(encode({"library": LIBRARY_PART}))
"""The context of a message that was given none."""
message_ids = MessageIds()


def context(given_context: Any, traits: Any = UNSET) -> Any:
    """The context, with our library in it, and an identify's traits, which replace any given there."""
    given = checks.mapping("context", given_context)
    has_traits = traits is not UNSET and traits is not None
    if given is UNSET and not has_traits:
        return CONTEXT
    whole = {} if given is UNSET else dict(given)
    if has_traits:
        whole["traits"] = traits
    whole["library"] = LIBRARY_PART
    return whole


def encoded(message: Any) -> bytes:
    """The message's JSON; raises ``EventError`` with the path of a value that JSON cannot hold."""
    try:
        data = encode(message)
    except Exception:  # noqa: BLE001  # whatever a value raises: it is met again, and named
        return values.carefully(message)
    return values.carefully(message) if values.needs_care(data) else data
