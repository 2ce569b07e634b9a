"""RudderStack events from applications that run as many processes; the names that an application imports."""

from rudderpipe._version import VERSION
from rudderpipe.cli.frozen import freeze_support
from rudderpipe.client import Client, configure, default_client
from rudderpipe.errors import (
    DeliveryError,
    EventError,
    EventRefused,
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
from rudderpipe.messages.context import request_context
from rudderpipe.messages.scrubber import Scrubber
from rudderpipe.settings import Settings
from rudderpipe.settings.redis_url import RedisAddress
from rudderpipe.transports.flush import FlushResult
from rudderpipe.types import Sent

__version__ = VERSION

__all__ = [
    "Client",
    "DeliveryError",
    "EventError",
    "EventRefused",
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
    "Sent",
    "Settings",
    "SettingsError",
    "__version__",
    "configure",
    "default_client",
    "freeze_support",
    "request_context",
]
