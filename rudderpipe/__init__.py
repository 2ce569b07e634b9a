"""RudderStack events from applications that run as many processes; the names that an application imports."""

from typing import TYPE_CHECKING, Any

from rudderpipe._version import VERSION
from rudderpipe.cli.frozen import freeze_support
from rudderpipe.client import Client, configure, default_client
from rudderpipe.errors import (
    DeliveryError,
    EventError,
    EventRefused,
    EventTooLarge,
    FlushTimeout,
    IngestionError,
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

if TYPE_CHECKING:
    from rudderpipe.ingestion.ingest import aingest, ingest
    from rudderpipe.ingestion.result import Ingested, IngestionProgress

__version__ = VERSION

__all__ = [
    "Client",
    "DeliveryError",
    "EventError",
    "EventRefused",
    "EventTooLarge",
    "FlushResult",
    "FlushTimeout",
    "Ingested",
    "IngestionError",
    "IngestionProgress",
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
    "aingest",
    "configure",
    "default_client",
    "freeze_support",
    "ingest",
    "request_context",
]

_LATER = {
    "aingest": "rudderpipe.ingestion.ingest",
    "ingest": "rudderpipe.ingestion.ingest",
    "Ingested": "rudderpipe.ingestion.result",
    "IngestionProgress": "rudderpipe.ingestion.result",
}


def __getattr__(name: str) -> Any:
    """Load the names of the ingestion when they are used, because few applications need them."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
