"""The demonstration's web application, which is created before the fork and tracks ten events for each request."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from rudderpipe.client import Client

EVENTS_A_REQUEST = 10
client = Client()


def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Respond, by WSGI, with the message ids of the accepted events."""
    accepted = []
    for number in range(EVENTS_A_REQUEST):
        message_id = str(uuid.uuid4())
        properties = {"revenue": 19.95, "shippingMethod": "Premium", "number": number, "worker": os.getpid()}
        if client.track("123456", "Item Viewed", properties, message_id=message_id):
            accepted.append(message_id)
    start_response("200 OK", [("content-type", "application/json")])
    return [msgspec.json.encode(accepted)]
