"""A drop-in for segment-analytics-python 2.4: ``from rudderpipe.compat import segment as analytics``.

It has the module functions, the module settings (read at the first call), ``default_client`` and ``Client``. Events
go to the RudderStack data plane ``host``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rudderpipe import log_text
from rudderpipe.compat import client as base
from rudderpipe.compat import errors
from rudderpipe.compat.client import OnError, Result

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rudderpipe.settings.arguments import DropInArguments

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
VERSION = "2.4.0"
"""The version of segment-analytics-python whose place this module takes."""
__version__ = VERSION


class DefaultConfig(base.DefaultConfig):
    """The defaults of the client's arguments."""

    gzip = False
    log_handler: logging.Handler | None = None
    max_total_backoff_duration = 43_200
    max_rate_limit_duration = 1_800
    oauth_client_id: str | None = None
    oauth_client_key: str | None = None
    oauth_key_id: str | None = None
    oauth_auth_server: str | None = "https://oauth2.segment.io"
    oauth_scope: str | None = "tracking_api:write"


class APIError(errors.APIError):
    """A failed delivery, as in segment-analytics-python; ``response`` is always None."""

    sdk = "Segment"
    response = None


class Client(base.Client):
    """The client ``segment.analytics.client.Client``: traits are beside the context, and gzip is off by default.

    OAuth is ignored, because a data plane identifies its sources by their write keys. ``max_total_backoff_duration``
    and ``max_rate_limit_duration`` have no effect, because ``max_retries`` is the bound here.
    """

    DefaultConfig = DefaultConfig
    _traits_in_context = False
    _integrations: Mapping[str, Any] = {}
    _library: Mapping[str, str] = {"name": "analytics-python", "version": VERSION}
    _error_type = APIError
    _retries_may_be_endless = False

    def __init__(
        self,
        write_key: str | None = DefaultConfig.write_key,
        host: str | None = DefaultConfig.host,
        debug: bool = DefaultConfig.debug,
        max_queue_size: int = DefaultConfig.max_queue_size,
        send: bool = DefaultConfig.send,
        on_error: OnError | None = DefaultConfig.on_error,
        gzip: bool = DefaultConfig.gzip,
        max_retries: int = DefaultConfig.max_retries,
        sync_mode: bool = DefaultConfig.sync_mode,
        timeout: float | tuple[float, float] | None = DefaultConfig.timeout,
        proxies: str | Mapping[str, str] | None = DefaultConfig.proxies,
        thread: int = DefaultConfig.thread,
        upload_size: int = DefaultConfig.upload_size,
        upload_interval: float = DefaultConfig.upload_interval,
        log_handler: logging.Handler | None = DefaultConfig.log_handler,
        oauth_client_id: str | None = DefaultConfig.oauth_client_id,
        oauth_client_key: str | None = DefaultConfig.oauth_client_key,
        oauth_key_id: str | None = DefaultConfig.oauth_key_id,
        oauth_auth_server: str | None = DefaultConfig.oauth_auth_server,  # noqa: ARG002  # OAuth is ignored
        oauth_scope: str | None = DefaultConfig.oauth_scope,  # noqa: ARG002  # as above
        max_total_backoff_duration: float = DefaultConfig.max_total_backoff_duration,
        max_rate_limit_duration: float = DefaultConfig.max_rate_limit_duration,
        *,
        original_library: bool | None = None,
        **settings: Unpack[DropInArguments],
    ) -> None:
        if log_handler:
            self.log.addHandler(log_handler)
        self.max_total_backoff_duration, self.max_rate_limit_duration = (
            max_total_backoff_duration,
            max_rate_limit_duration,
        )
        super().__init__(
            write_key,
            host,
            debug,
            max_queue_size,
            send,
            on_error,
            gzip,
            max_retries,
            sync_mode,
            timeout,
            proxies,
            thread,
            upload_size,
            upload_interval,
            original_library=original_library,
            **settings,
        )
        for name in ("max_total_backoff_duration", "max_rate_limit_duration"):
            value = getattr(self, name)
            if value is None or value < 0:
                raise ValueError(f"{name} must be a non-negative number")
        if oauth_client_id and oauth_client_key and oauth_key_id:
            log_text.logger().warning("OAuth is ignored, because the write key identifies the source")


write_key: str | None = DefaultConfig.write_key
host: str | None = DefaultConfig.host
on_error = DefaultConfig.on_error
debug = DefaultConfig.debug
log_handler = DefaultConfig.log_handler
send = DefaultConfig.send
sync_mode = DefaultConfig.sync_mode
max_queue_size = DefaultConfig.max_queue_size
gzip = DefaultConfig.gzip
timeout = DefaultConfig.timeout
max_retries = DefaultConfig.max_retries
oauth_client_id = DefaultConfig.oauth_client_id
oauth_client_key = DefaultConfig.oauth_client_key
oauth_key_id = DefaultConfig.oauth_key_id
oauth_auth_server = DefaultConfig.oauth_auth_server
oauth_scope = DefaultConfig.oauth_scope
default_client: Client | None = None


def track(*args: Any, **kwargs: Any) -> Result:
    """Send a track call."""
    return _client().track(*args, **kwargs)


def identify(*args: Any, **kwargs: Any) -> Result:
    """Send an identify call."""
    return _client().identify(*args, **kwargs)


def group(*args: Any, **kwargs: Any) -> Result:
    """Send a group call."""
    return _client().group(*args, **kwargs)


def alias(*args: Any, **kwargs: Any) -> Result:
    """Send an alias call."""
    return _client().alias(*args, **kwargs)


def page(*args: Any, **kwargs: Any) -> Result:
    """Send a page call."""
    return _client().page(*args, **kwargs)


def screen(*args: Any, **kwargs: Any) -> Result:
    """Send a screen call."""
    return _client().screen(*args, **kwargs)


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
            host=host,
            debug=debug,
            max_queue_size=max_queue_size,
            send=send,
            on_error=on_error,
            gzip=gzip,
            max_retries=max_retries,
            sync_mode=sync_mode,
            timeout=timeout,
            log_handler=log_handler,
            oauth_client_id=oauth_client_id,
            oauth_client_key=oauth_client_key,
            oauth_key_id=oauth_key_id,
            oauth_auth_server=oauth_auth_server,
            oauth_scope=oauth_scope,
        )
    return default_client
