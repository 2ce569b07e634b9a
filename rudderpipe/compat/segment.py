"""A drop-in for segment-analytics-python 2.3: ``from rudderpipe.compat import segment as analytics``.

It has the module functions, the module settings (read at the first call), ``default_client`` and ``Client``. Events
go to the RudderStack data plane ``host``. OAuth, which only Segment has, is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rudderpipe import log_text
from rudderpipe.compat import client as base
from rudderpipe.compat.client import DefaultConfig, OnError, Result
from rudderpipe.errors import SettingsError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rudderpipe.settings.arguments import DropInArguments

    class _Arguments(DropInArguments, total=False):
        """The other arguments of segment-analytics-python: those of OAuth are refused, those of a backoff ignored."""

        oauth_client_id: str | None
        oauth_client_key: str | None
        oauth_key_id: str | None
        oauth_auth_server: str | None
        oauth_scope: str | None
        max_total_backoff_duration: float | None
        max_rate_limit_duration: float | None


__all__ = ["Client", "alias", "flush", "group", "identify", "join", "page", "screen", "shutdown", "track"]


class Client(base.Client):
    """The client ``segment.analytics.client.Client``: traits are beside the context, and gzip is off by default."""

    _traits_in_context = False
    _integrations: Mapping[str, Any] = {}

    def __init__(
        self,
        write_key: str | None = DefaultConfig.write_key,
        host: str | None = DefaultConfig.host,
        debug: bool = DefaultConfig.debug,
        max_queue_size: int = DefaultConfig.max_queue_size,
        send: bool = DefaultConfig.send,
        on_error: OnError | None = DefaultConfig.on_error,
        gzip: bool = False,
        max_retries: int = DefaultConfig.max_retries,
        sync_mode: bool = DefaultConfig.sync_mode,
        timeout: float | tuple[float, float] | None = DefaultConfig.timeout,
        proxies: str | Mapping[str, str] | None = DefaultConfig.proxies,
        thread: int = DefaultConfig.thread,
        upload_size: int = DefaultConfig.upload_size,
        upload_interval: float = DefaultConfig.upload_interval,
        log_handler: logging.Handler | None = None,
        **settings: Unpack[_Arguments],
    ) -> None:
        if log_handler is not None:
            log_text.logger().addHandler(log_handler)
        ours: dict[str, Any] = dict(settings)
        for name in [name for name in ours if name.startswith("oauth_")]:
            if ours.pop(name):
                raise SettingsError(
                    name, "cannot be used, because a data plane identifies its sources by their write keys"
                )
        for name in ("max_total_backoff_duration", "max_rate_limit_duration"):
            ours.pop(name, None)  # max_retries is the bound here
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
            **ours,
        )


write_key: str | None = DefaultConfig.write_key
host: str | None = DefaultConfig.host
on_error = DefaultConfig.on_error
debug = DefaultConfig.debug
log_handler: logging.Handler | None = None
send = DefaultConfig.send
sync_mode = DefaultConfig.sync_mode
max_queue_size = DefaultConfig.max_queue_size
gzip = False
timeout = DefaultConfig.timeout
max_retries = DefaultConfig.max_retries
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
        )
    return default_client
