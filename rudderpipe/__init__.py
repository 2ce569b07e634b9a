"""RudderStack events from applications that run as many processes: what an application imports."""

from rudderpipe.client import Client
from rudderpipe.errors import (
    EventError,
    EventTooLarge,
    JobUnreadable,
    QueueError,
    QueueUnavailable,
    RingError,
    RingFull,
    RingUnavailable,
    RudderpipeError,
    SettingsError,
)
from rudderpipe.redis_address import RedisAddress
from rudderpipe.settings import Settings
from rudderpipe.version import VERSION

__version__ = VERSION

__all__ = [
    "Client",
    "EventError",
    "EventTooLarge",
    "JobUnreadable",
    "QueueError",
    "QueueUnavailable",
    "RedisAddress",
    "RingError",
    "RingFull",
    "RingUnavailable",
    "RudderpipeError",
    "Settings",
    "SettingsError",
    "__version__",
]
