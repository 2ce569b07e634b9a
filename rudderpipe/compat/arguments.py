"""The arguments of rudder-sdk-python as rudderpipe's settings.

What that SDK takes is taken: as the nearest value that rudderpipe has, or as the default, which is logged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from rudderpipe import log_text
from rudderpipe import settings as settings_module
from rudderpipe.errors import SettingsError
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog

TIMEOUT_S = 15.0
LONGEST_TIMEOUT_S = 600.0
MOST_ATTEMPTS = 1_000_000
LARGEST_QUEUE = 100_000_000
LARGEST_BATCH = 10_000
LONGEST_INTERVAL_MS = 86_400_000

_log = ThrottledLog(log_text.logger(), Clock(), RARELY_S)


def number(name: str, value: Any, default: float) -> float:
    """Return the value as a number, also from text; return the default and log that if it is no number."""
    try:
        given = float(value)
    except (TypeError, ValueError, OverflowError):
        given = math.nan
    if math.isnan(given):
        _log.warning(name, "%s is not a number, %g is used", name, default)
        return default
    return given


def queue_size(value: Any, default: int) -> int:
    """Return the limit of events in the ring. Same as Python's queues: 0 and less mean no limit."""
    given = number("max_queue_size", value, default)
    return math.ceil(min(given, LARGEST_QUEUE)) if given > 0 else LARGEST_QUEUE


def attempts(value: Any, default: int, *, endless: bool) -> int:
    """Return the number of attempts. With ``endless``, fewer than 0 retries mean that retries never end."""
    given = number("max_retries", value, default)
    if given < 0:
        return MOST_ATTEMPTS if endless else 1
    return math.ceil(min(given + 1, MOST_ATTEMPTS))


def batch_size(value: Any, default: int) -> int:
    """Return the number of events in a request."""
    return math.ceil(min(max(number("upload_size", value, default), 1), LARGEST_BATCH))


def interval_ms(value: Any, default: float) -> int:
    """Return the interval in milliseconds from one in seconds."""
    return math.ceil(min(max(number("upload_interval", value, default) * 1000, 0), LONGEST_INTERVAL_MS))


def timeouts(value: Any) -> tuple[float, float]:
    """Return the seconds for a connection and for a response. Same as requests: None is no limit, which 600 s is."""
    parts = value if isinstance(value, tuple) else (value, value)
    if len(parts) != 2:
        _log.warning("timeout", "timeout is not a number or a pair of numbers, %g is used", TIMEOUT_S)
        parts = (TIMEOUT_S, TIMEOUT_S)
    connect_s, read_s = map(_seconds, parts)
    return connect_s, read_s


def _seconds(value: Any) -> float:
    if value is None:
        return LONGEST_TIMEOUT_S
    given = number("timeout", value, TIMEOUT_S)
    if given <= 0:
        _log.warning("timeout", "timeout is not above 0, %g is used", TIMEOUT_S)
        return TIMEOUT_S
    return min(given, LONGEST_TIMEOUT_S)


def address(host: Any, default: str) -> Any:
    """Return the URL of the data plane without a user, because the write key takes the user's place."""
    if not host:
        return default
    if not isinstance(host, str):
        return host
    scheme, mark, rest = host.strip().partition("://")
    network, slash, path = rest.partition("/")
    return f"{scheme}{mark}{network.rpartition('@')[2]}{slash}{path}"


def proxy(proxies: Any, host: Any) -> str | None:
    """Return the proxy that ``requests`` would use: that of this host, of its scheme, or of all.

    None leaves it to the environment, and an empty text means no proxy.
    """
    if not proxies:
        return None
    if isinstance(proxies, Mapping):
        names = [name for name in _proxy_names(host) if name in proxies]
        if not names:
            return None
        chosen = next((proxies[name] for name in names if proxies[name] is not None), "")
    else:
        chosen = proxies
    if not chosen:
        return ""
    url = chosen if not isinstance(chosen, str) or "://" in chosen else f"http://{chosen}"
    try:
        settings_module.load({"proxy_url": url}, environment={})
    except SettingsError as error:
        _log.error("proxies", "proxies has no http or https proxy, requests go without one: %s", error.reason)
        return ""
    return str(url)


def _proxy_names(host: Any) -> tuple[str, ...]:
    try:
        url = urlsplit(host)
        return f"{url.scheme}://{url.hostname}", url.scheme, f"all://{url.hostname}", "all"
    except (ValueError, AttributeError, TypeError):
        return ()
