"""The SDKs for comparison: RudderStack's, Segment's and PostHog's Python SDKs, from their registries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

PROPERTIES: dict[str, Any] = {
    "revenue": 19.95,
    "shippingMethod": "Premium",
    "currency": "USD",
    "coupon": "SUMMER-2026",
    "product_id": "507f1f77bcf86cd799439011",
    "sku": "G-32",
    "category": "Games",
    "name": "Monopoly: 3rd Edition",
    "quantity": 1,
}
"""Nine properties, which make a message of about 450 bytes."""

Call = Callable[[], Any]
MODULES = ("rudderstack.analytics", "segment.analytics", "posthog")


def rudder_sdk_python(url: str) -> tuple[Call, Call]:
    """Return a call of track, and a function that waits until all is sent."""
    from rudderstack.analytics.client import Client

    client = Client("KEY", host=url, max_queue_size=1_000_000)
    return lambda: client.track("123456", "Item Viewed", PROPERTIES), client.flush


def segment_analytics_python(url: str) -> tuple[Call, Call]:
    """Return a call of track, and a function that waits until all is sent."""
    from segment.analytics.client import Client

    client = Client("KEY", host=url, max_queue_size=1_000_000)
    return lambda: client.track("123456", "Item Viewed", PROPERTIES), client.flush


def posthog(url: str) -> tuple[Call, Call]:
    """Return a call of capture, and a function that waits until all is sent."""
    from posthog import Posthog

    client = Posthog("KEY", host=url, max_queue_size=1_000_000)
    return lambda: client.capture("Item Viewed", distinct_id="123456", properties=PROPERTIES), client.flush


def quiet() -> None:
    """Silence the other SDKs, which log what a local data plane does not know."""
    logging.disable(logging.CRITICAL)
