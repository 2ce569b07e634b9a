"""A drop-in for rudder-sdk-python 2.1: ``from rudderpipe.compat import rudderstack as rudder_analytics``.

It has the module functions, the module settings (read at the first call), ``default_client`` and ``Client``.
"""

from __future__ import annotations

from typing import Any

from rudderpipe.compat.client import VERSION, Client, DefaultConfig
from rudderpipe.compat.errors import APIError

__all__ = [
    "VERSION",
    "APIError",
    "Client",
    "alias",
    "flush",
    "group",
    "identify",
    "join",
    "page",
    "screen",
    "shutdown",
    "track",
]
__version__ = VERSION

write_key: str | None = DefaultConfig.write_key
host: str | None = DefaultConfig.host
dataPlaneUrl: str | None = None  # noqa: N816  # the name in rudder-sdk-python
on_error = DefaultConfig.on_error
debug = DefaultConfig.debug
send = DefaultConfig.send
sync_mode = DefaultConfig.sync_mode
max_queue_size = DefaultConfig.max_queue_size
gzip = DefaultConfig.gzip
timeout = DefaultConfig.timeout
max_retries = DefaultConfig.max_retries
proxies = DefaultConfig.proxies
thread = DefaultConfig.thread
upload_size = DefaultConfig.upload_size
upload_interval = DefaultConfig.upload_interval
default_client: Client | None = None


def track(*args: Any, **kwargs: Any) -> None:
    """Send a track call."""
    _client().track(*args, **kwargs)


def identify(*args: Any, **kwargs: Any) -> None:
    """Send an identify call."""
    _client().identify(*args, **kwargs)


def group(*args: Any, **kwargs: Any) -> None:
    """Send a group call."""
    _client().group(*args, **kwargs)


def alias(*args: Any, **kwargs: Any) -> None:
    """Send an alias call."""
    _client().alias(*args, **kwargs)


def page(*args: Any, **kwargs: Any) -> None:
    """Send a page call."""
    _client().page(*args, **kwargs)


def screen(*args: Any, **kwargs: Any) -> None:
    """Send a screen call."""
    _client().screen(*args, **kwargs)


def flush() -> None:
    """Wait until the events have left the ring, but give up when none has moved for 10 s."""
    _client().flush()


def join() -> None:
    """Do the same as ``flush``, because there is no thread to wait for."""
    _client().join()


def shutdown() -> None:
    """Flush, and release the ring. Later events are refused."""
    _client().shutdown()


def _client() -> Client:
    global default_client  # applications read it, and set it
    if default_client is None:
        default_client = Client(
            write_key,
            host=dataPlaneUrl if isinstance(dataPlaneUrl, str) and dataPlaneUrl else host,
            debug=debug,
            max_queue_size=max_queue_size,
            send=send,
            on_error=on_error,
            gzip=gzip,
            max_retries=max_retries,
            sync_mode=sync_mode,
            timeout=timeout,
            proxies=proxies,
            upload_size=upload_size,
            upload_interval=upload_interval,
        )
    return default_client
