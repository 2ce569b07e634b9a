"""A message given whole, in wire names, as the Node SDK takes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from msgspec import UNSET

from rudderpipe import checks, parts
from rudderpipe.errors import EventError


def from_wire(kind: str, message: Mapping[str, Any], *others: Any) -> bytes:
    """The message of one call given whole, in wire names; keys that rudderpipe does not know travel along.

    As the Node SDK: ``type``, ``channel`` and ``context.library`` are always ours, ``messageId`` and
    ``originalTimestamp`` only where the caller gave none.
    """
    if any(other is not None for other in others):
        raise EventError("message", "is a whole message, so no other argument may be given")
    user_id, anonymous_id = message.get("userId"), message.get("anonymousId")
    if kind == "alias":
        user_id = checks.required_id("userId", user_id)
        previous_id = checks.required_id("previousId", message.get("previousId"))
    ids = checks.ids(user_id, anonymous_id, ("userId", "anonymousId"))
    whole: dict[str, Any] = dict(message)
    whole.pop("sentAt", None)
    for name, value in zip(("userId", "anonymousId"), ids, strict=True):
        if value is UNSET:
            whole.pop(name, None)
        else:
            whole[name] = value
    for name in ("category", "name", "event"):
        checks.text(name, message.get(name))
    for name in ("properties", "traits", "integrations"):
        checks.mapping(name, message.get(name))
    if kind == "track":
        checks.text("event", message.get("event"), required=True)
    elif kind == "group":
        whole["groupId"] = checks.required_id("groupId", message.get("groupId"))
    elif kind == "alias":
        whole["previousId"] = previous_id
    for name in ("timestamp", "originalTimestamp"):
        if message.get(name):
            whole[name] = checks.moment(name, message[name])
    whole["type"] = kind
    whole["context"] = parts.context(message.get("context"), message.get("traits") if kind == "identify" else UNSET)
    whole["channel"] = parts.CHANNEL
    whole["originalTimestamp"] = whole.get("originalTimestamp") or datetime.now(timezone.utc)
    given = message.get("messageId")
    whole["messageId"] = parts.message_ids.new() if not given else checks.message_id(given)
    return parts.encoded(whole)
