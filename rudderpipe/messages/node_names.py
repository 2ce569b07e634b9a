"""The option names of RudderStack's Node SDK and their settings, with the values and meanings of rudder-sdk-node 3."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rudderpipe.errors import SettingsError

HOSTED = "https://hosted.rudderlabs.com"
_LEVELS = {"log": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error", "none": "none"}
_UNITS_S = {"": 0.001, "ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_INSTEAD = {
    "axiosInstance": "give proxy_url, ca_file or timeout_s instead",
    "axiosRetryConfig": "give max_attempts instead; the waits between attempts are fixed",
}
_QUEUE_OPTIONS = frozenset(("redisOpts", "queueName", "prefix", "isMultiProcessor", "jobOpts", "JobOpts"))
"""The options of the queue; RudderStack's documentation has ``JobOpts``, and the Node SDK reads ``jobOpts``."""


def url_and_options(
    url: str | Mapping[str, Any] | None, options: Mapping[str, Any] | None
) -> tuple[str | None, Mapping[str, Any] | None]:
    """Return the URL and the options of ``new Analytics(…)``, which may have options in the place of the URL.

    Raises ``SettingsError``.
    """
    if isinstance(url, Mapping):
        return None, {**url, **(options or {})}
    if options is not None and not isinstance(options, Mapping):
        raise SettingsError("options", f"must be a mapping, not {type(options).__name__}")
    return url, options


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the options of ``new Analytics(…)``; names of rudderpipe's own settings are kept.

    Raises ``SettingsError``, which uses the caller's name of the option.
    """
    settings: dict[str, Any] = {}
    for name, value in options.items():
        if name in _INSTEAD:
            if value:
                raise SettingsError(name, f"has no meaning without axios; {_INSTEAD[name]}")
        elif name == "axiosConfig":
            settings |= _axios(value or {})
        elif name in _OPTIONS:
            if value is not None:
                ours, convert = _OPTIONS[name]
                settings[ours] = convert(name, value)
        elif name in _QUEUE_OPTIONS and name != "prefix":
            raise SettingsError(name, "is an option of createPersistenceQueue")
        elif re.search("[A-Z]", name):
            raise SettingsError(name, f"is unknown; the Node SDK has {', '.join(sorted([*_OPTIONS, 'axiosConfig']))}")
        else:
            settings[name] = value
    if options.get("dataPlaneUrl"):
        settings["data_plane_url"] = _url("dataPlaneUrl", options["dataPlaneUrl"])  # takes precedence over host
    return {name: value for name, value in settings.items() if value is not None}


def queue_settings_of(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings in the first argument of ``createPersistenceQueue``. Raises ``SettingsError``."""
    options = _mapping("queueOpts", options)
    for name in options:
        if name not in _QUEUE_OPTIONS:
            raise SettingsError(name, f"is unknown; the Node SDK has {', '.join(sorted(_QUEUE_OPTIONS))}")
    redis = options.get("redisOpts")
    if not redis and not isinstance(redis, Mapping):  # Same as the Node SDK: {} is localhost:6379
        raise SettingsError("redisOpts", "is missing; give the address of the Redis server for the queue")
    job_name = "JobOpts" if options.get("jobOpts") is None and "JobOpts" in options else "jobOpts"
    job = _mapping(job_name, options.get(job_name))
    for name in job:
        if name != "maxAttempts":
            raise SettingsError(f"{job_name}.{name}", "is unknown; the Node SDK has maxAttempts")
    settings = {
        "redis": dict(redis) if isinstance(redis, Mapping) else redis,
        "queue_name": options.get("queueName") or None,
        "prefix": _prefix(options.get("prefix")),
        "is_multi_processor": bool(options.get("isMultiProcessor")),
        "max_attempts": _count(f"{job_name}.maxAttempts", job.get("maxAttempts") or 10, 1),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SettingsError(name, f"must be a mapping, not {type(value).__name__}")
    return value


def _prefix(value: Any) -> Any:
    """Return the prefix for the same keys as in Node, where braces are put around every prefix."""
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        return f"{{{value}}}"  # because rudderpipe puts none around a prefix that has both
    return value or None


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SettingsError(name, f"must be a number, not {type(value).__name__}") from None
    if isinstance(value, bool) or number != number:  # NaN
        raise SettingsError(name, "must be a number")
    return number


def _count(name: str, value: Any, least: int = 0) -> int:
    return max(least, int(_number(name, value)))


def _flush_at(name: str, value: Any) -> int:
    return _count(name, value, 1)


def _interval(name: str, value: Any) -> int:
    return _count(name, value) or 10_000  # Same as the Node SDK: 0 does not disable it


def _url(_name: str, value: Any) -> Any:
    return value.rstrip("/") or HOSTED if isinstance(value, str) else value


def _path(_name: str, value: Any) -> Any:
    return "/" + value.strip("/") if isinstance(value, str) else value


def _timeout_s(name: str, value: Any) -> float | None:
    if value is False:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value))
    if isinstance(value, bool) or match is None or match[2] not in _UNITS_S:
        raise SettingsError(name, 'must be milliseconds, or text such as "10s"')
    return float(match[1]) * _UNITS_S[match[2]]


def _level(name: str, value: Any) -> str:
    if value not in _LEVELS:
        raise SettingsError(name, f"must be one of {', '.join(_LEVELS)}")
    return _LEVELS[value]


def _attempts(name: str, value: Any) -> int:
    return _count(name, value) + 1


def _unless_false(_name: str, value: Any) -> bool:
    return value is not False  # Same as the Node SDK: only a real false counts


def _as_it_is(_name: str, value: Any) -> Any:
    return value


_OPTIONS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "dataPlaneUrl": ("data_plane_url", _url),
    "host": ("data_plane_url", _url),
    "path": ("path", _path),
    "flushAt": ("flush_at", _flush_at),
    "flushInterval": ("flush_interval_ms", _interval),
    "maxQueueSize": ("max_batch_bytes", _count),
    "maxInternalQueueSize": ("max_internal_queue_size", _flush_at),
    "logLevel": ("log_level", _level),
    "enable": ("enable", _unless_false),
    "gzip": ("gzip", _unless_false),
    "timeout": ("timeout_s", _timeout_s),
    "retryCount": ("max_attempts", _attempts),
    "errorHandler": ("on_error", _as_it_is),
}


def _axios(config: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if name == "timeout":
            settings["timeout_s"] = _timeout_s("axiosConfig.timeout", value) or None
        elif name == "proxy":
            settings["proxy_url"] = _proxy(value) if value else "" if value is False else None
        else:
            raise SettingsError(f"axiosConfig.{name}", "has no meaning without axios; use only proxy and timeout")
    return settings


def _proxy(value: Any) -> str:
    from urllib.parse import quote  # here, because few processes have a proxy

    try:
        auth = value.get("auth")
        user = f"{quote(auth['username'], safe='')}:{quote(auth.get('password', ''), safe='')}@" if auth else ""
        protocol = value.get("protocol", "http").rstrip(":")
        return f"{protocol}://{user}{value['host']}:{value.get('port', 80)}"
    except (AttributeError, KeyError, TypeError):
        raise SettingsError("axiosConfig.proxy", "must have host and port, and may have protocol and auth") from None
