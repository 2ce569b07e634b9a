"""The demonstration's web application: made before the fork, it tracks ten events a request from every worker."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

import rudderpipe

EVENTS_A_REQUEST = 10
client = rudderpipe.Client()


def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI; answers the message ids of the events that were accepted."""
    accepted = []
    for number in range(EVENTS_A_REQUEST):
        message_id = str(uuid.uuid4())
        properties = {"revenue": 19.95, "shippingMethod": "Premium", "number": number, "worker": os.getpid()}
        if client.track("123456", "Item Viewed", properties, message_id=message_id):
            accepted.append(message_id)
    start_response("200 OK", [("content-type", "application/json")])
    return [msgspec.json.encode(accepted)]
