"""An event of the Node SDK or of ours in a form in which both can be compared."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

Event = dict[str, str] | None
"""The JSON of each field of an event that was sent; None if the call was refused."""


def comparable(event: dict[str, Any] | None, since: datetime) -> Event:
    """Return the JSON of each field, without what an SDK makes for each message: ids, times and its library."""
    if event is None:
        return None
    event = dict(event)
    assert moment_of(event.pop("sentAt")) >= since
    metadata = event.pop("_metadata", {})
    if isinstance(metadata, dict):
        metadata = {name: value for name, value in metadata.items() if name != "nodeVersion"}
    if metadata != {}:
        event["_metadata"] = metadata
    library = event["context"]["library"]
    assert library["name"] in ("analytics-node", "rudderpipe")
    event["context"] = {name: value for name, value in event["context"].items() if name != "library"}
    if re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", str(event["messageId"])):
        event["messageId"] = "<new>"
    made = moment_of(event["originalTimestamp"])
    if made is not None and made >= since:
        event["originalTimestamp"] = "<now>"
    return {name: json.dumps(neutral(value), sort_keys=True) for name, value in event.items()}


def moment_of(value: Any) -> Any:
    """Return the moment in ISO 8601 text, or None."""
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value):
        return None
    whole, _, digits = value.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00") + timedelta(microseconds=int(f"{digits:0<6}"[:6]))


def neutral(value: Any) -> Any:
    """Return the value with each moment in one spelling, and each whole number without a point."""
    if isinstance(value, dict):
        return {name: neutral(each) for name, each in value.items()}
    if isinstance(value, list):
        return [neutral(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    moment = moment_of(value)
    return value if moment is None else moment.isoformat()
