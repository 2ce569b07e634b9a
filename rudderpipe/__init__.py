"""RudderStack events from applications that run as many processes: what an application imports."""

from rudderpipe.client import Client
from rudderpipe.default import configure, default_client
from rudderpipe.errors import (
    DeliveryError,
    EventError,
    EventTooLarge,
    FlushTimeout,
    JobUnreadable,
    QueueError,
    QueueUnavailable,
    RingError,
    RingFull,
    RingUnavailable,
    RudderpipeError,
    SettingsError,
)
from rudderpipe.frozen import freeze_support
from rudderpipe.receipts import FlushResult
from rudderpipe.redis_address import RedisAddress
from rudderpipe.settings import Settings
from rudderpipe.shape.ambient import request_context
from rudderpipe.shape.scrubber import Scrubber
from rudderpipe.version import VERSION

__version__ = VERSION

__all__ = [
    "Client",
    "DeliveryError",
    "EventError",
    "EventTooLarge",
    "FlushResult",
    "FlushTimeout",
    "JobUnreadable",
    "QueueError",
    "QueueUnavailable",
    "RedisAddress",
    "RingError",
    "RingFull",
    "RingUnavailable",
    "RudderpipeError",
    "Scrubber",
    "Settings",
    "SettingsError",
    "__version__",
    "configure",
    "default_client",
    "freeze_support",
    "request_context",
]
