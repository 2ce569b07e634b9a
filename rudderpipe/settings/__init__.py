"""All settings: one frozen value, checked once, from arguments, the environment and a TOML file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rudderpipe.errors import SettingsError
from rudderpipe.settings import names, proxies
from rudderpipe.settings.redis_url import PATHS, RedisAddress, from_url

ENVIRONMENT_PREFIX = "RUDDERPIPE_"
CONFIG_VARIABLE = "RUDDERPIPE_CONFIG"
EVENT_LIMIT_BYTES = 4_000_000  # the gateway takes 4,096,000 decompressed bytes a request (Gateway.maxReqSizeInKB)

CLIENTS = ("enable", "dry_run", "sync_mode", "strict")
"""Settings that only a client cares for."""
LOG_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "none": 100}

Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1024, le=EVENT_LIMIT_BYTES)]
Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Every setting of rudderpipe; see ``docs/settings.md`` for when to raise and when to lower one.

    Explicit arguments beat the environment (``RUDDERPIPE_`` and the name in upper case), which beats the file.
    """

    # where events go
    write_key: str = ""
    data_plane_url: str = ""
    path: Annotated[str, Meta(pattern="^/[!-~]*$", max_length=1000)] = names.USUAL_PATH
    data_plane_id: Annotated[str, Meta(pattern="^[!-~]{1,200}$")] | None = None
    gzip: bool = True
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    proxy_url: str | None = None
    ca_file: str | None = None
    # what a client does with them
    enable: bool = True
    dry_run: bool = False
    sync_mode: bool = False
    strict: bool = False
    log_level: Literal["debug", "info", "warning", "error", "none"] | None = None
    # batches
    flush_at: Annotated[int, Meta(ge=1, le=10_000)] = 20
    flush_interval_ms: Milliseconds = 20_000
    max_internal_queue_size: Annotated[int, Meta(ge=1, le=100_000_000)] = 20_000
    max_batch_bytes: Bytes = 460_800
    # the queue
    redis: str | RedisAddress | None = None
    queue_name: Name = "rudderEventsQueue"
    prefix: Name = "rudder"
    is_multi_processor: bool = False
    lease_ms: Annotated[int, Meta(ge=1_000, le=600_000)] = 10_000
    max_attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    max_jobs_per_request: Annotated[int, Meta(ge=1, le=1000)] = 50
    max_request_bytes: Bytes = 460_800
    max_queue_bytes: Annotated[int, Meta(ge=1 << 20)] | None = None
    stall_timeout_s: Annotated[float, Meta(ge=1, le=86_400)] = 120.0
    keep_completed: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    keep_failed: Annotated[int, Meta(ge=0, le=100_000_000)] | None = None
    keep_failed_s: Annotated[float, Meta(ge=0, le=10 * 366 * 86_400)] | None = None
    # the ring and the processes
    pipe: Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")] | None = None
    runtime_dir: str | None = None
    ring_bytes: Annotated[int, Meta(ge=1 << 20, le=(1 << 32) - 65_536)] = 32 << 20
    autostart: bool | str = True
    when_full: Literal["drop", "block", "raise"] = "drop"
    block_timeout_ms: Milliseconds = 1_000
    max_spool_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 64 << 20
    shutdown_timeout_s: Seconds = 10.0
    linger_s: Seconds = 5.0

    def __repr__(self) -> str:
        shown = {k: v for k, v in msgspec.structs.asdict(self).items() if k not in ("write_key", "redis", "proxy_url")}
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    def __post_init__(self) -> None:
        if self.autostart not in (True, False, "flusher"):
            raise SettingsError("autostart", 'must be true, false or "flusher"')
        if self.data_plane_url:
            _check_url("data_plane_url", self.data_plane_url, ("http", "https"))
            if "@" in self.data_plane_url.partition("//")[2].partition("/")[0]:
                raise SettingsError("data_plane_url", "holds a user name; only the write key identifies the source")
            if "?" in self.data_plane_url or "#" in self.data_plane_url:
                raise SettingsError("data_plane_url", "holds a query or a fragment; path is added behind the URL")
        if self.proxy_url:
            _check_url("proxy_url", self.proxy_url, ("http", "https"))
        if isinstance(self.redis, str):
            from_url(self.redis)
        if self.prefix.startswith(("{}", "}")):
            raise SettingsError("prefix", "holds an empty hash tag: a cluster would keep the queue's keys apart")

    @property
    def redis_place(self) -> str:
        """Where Redis is, without user and password; empty in direct mode."""
        return self.redis_address.place if self.redis is not None else ""

    @property
    def redis_address(self) -> RedisAddress:
        """Where Redis is. Raises ``SettingsError`` in direct mode."""
        if self.redis is None:
            raise SettingsError("redis", "is missing")
        return from_url(self.redis) if isinstance(self.redis, str) else self.redis

    @property
    def endpoint(self) -> str:
        """The URL that batches are posted to, in its normal form; empty without ``data_plane_url``."""
        return names.endpoint(self.data_plane_url, self.path)

    @property
    def plane_id(self) -> str:
        """What tells this data plane from another one; holds nothing secret, and is empty without a data plane."""
        return self.data_plane_id or self.endpoint

    @property
    def pipe_name(self) -> str:
        """The explicit name, else one derived from write key, data plane and queue; reveals none of them.

        The same explicit name with a queue and without is two pipes: their flushers do different things.
        """
        if self.pipe:
            return f"{self.pipe}.queue" if self.redis is not None else self.pipe
        return names.pipe(self.write_key, self.endpoint, self._queue_parts)

    @property
    def pipe_names(self) -> list[str]:
        """The pipe's name, then the others that earlier versions may have given it."""
        if self.pipe:
            return [self.pipe_name]
        former = names.former_pipes(
            self.write_key, self.data_plane_url, self.endpoint, self._queue_parts, self.redis_place
        )
        return list(dict.fromkeys((self.pipe_name, *former)))

    @property
    def _queue_parts(self) -> tuple[str, ...]:
        return () if self.redis is None else (names.redis(self.redis_address), self.queue_name, self.prefix)

    def for_processes(self) -> Settings:
        """Less what only a client cares for, so that two that differ in that alone have one pipe."""
        when_full = "raise" if self.strict else self.when_full
        return msgspec.structs.replace(
            self, when_full=when_full, enable=True, dry_run=False, sync_mode=False, strict=False
        )

    def require(self, *fields: str) -> None:
        """Raise ``SettingsError`` for the first of these that was not given."""
        for field in fields:
            if not getattr(self, field):
                raise SettingsError(
                    field, f"is missing: give it as an argument or as {ENVIRONMENT_PREFIX}{field.upper()}"
                )


def load(
    explicit: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Settings:
    """The settings from all three sources; an explicit ``None`` counts as not given.

    ``environment`` is ``os.environ`` unless given; the file is ``config`` or the one that ``RUDDERPIPE_CONFIG`` names.
    Without ``proxy_url`` the environment's proxies count (HTTPS_PROXY and the like); with ``""`` there is no proxy.
    Raises ``SettingsError``, which names the setting.
    """
    environment = os.environ if environment is None else environment
    config = config or environment.get(CONFIG_VARIABLE)
    merged: dict[str, Any] = _from_file(os.fspath(config)) if config else {}
    merged |= _from_environment(environment)
    merged |= {name: value for name, value in (explicit or {}).items() if value is not None}
    _check_text("", merged)
    for name in ("runtime_dir", "ca_file"):
        if isinstance(merged.get(name), str):
            merged[name] = _absolute(name, merged[name])
    if isinstance(merged.get("redis"), Mapping):
        merged["redis"] = {
            name: _absolute(f"redis.{name}", value) if name in PATHS and isinstance(value, str) else value
            for name, value in merged["redis"].items()
        }
    if "proxy_url" not in merged and isinstance(merged.get("data_plane_url"), str):
        merged["proxy_url"] = proxies.from_environment(environment, merged["data_plane_url"])
    return _convert(merged)


def _check_text(path: str, value: Any) -> None:
    """Refuse text that names, files and processes could not be given: what is not UTF-8, and NUL."""
    if isinstance(value, str):
        if "\0" in value:
            raise SettingsError(path, "holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SettingsError(path, "is not UTF-8 text") from None
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if isinstance(name, str):
                _check_text(f"{path}.{ascii(name)[1:-1]}".lstrip("."), each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_text(path, each)


def _absolute(name: str, path: str) -> str:
    """Return the path as it is anywhere: autostarted processes run in /."""
    try:
        return os.path.abspath(path)  # noqa: PTH100  # pathlib's leaves the dots in
    except OSError as error:
        reason = f"is a relative path, but the working directory cannot be read: {error.strerror}"
        raise SettingsError(name, reason) from None


def from_json(text: bytes) -> Settings:
    """The settings that a parent process hands to its child on standard input."""
    return msgspec.json.decode(text, type=Settings)


def _convert(values: dict[str, Any]) -> Settings:
    for name in values:
        if name not in Settings.__struct_fields__:
            raise SettingsError(name, f"is unknown; known are {', '.join(sorted(Settings.__struct_fields__))}")
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        name = path.strip("`.[]") or "?"
        raise SettingsError(name, _without_value(name, reason)) from None


def _without_value(name: str, reason: str) -> str:
    """Return msgspec's reason, which tells the value that was given where only some are allowed."""
    if not reason.startswith("Invalid enum value"):
        return reason
    known: str = Settings.__annotations__[name]  # the source's text: Literal["drop", "block", "raise"]
    return f"must be one of {known.removesuffix(' | None').removeprefix('Literal[').removesuffix(']')}"


def from_text(name: str, text: str) -> Any:
    """One setting's value from text, as a variable or a command's option holds it. Raises ``SettingsError``."""
    _check_text(name, text)
    type_: Any = next(field.type for field in msgspec.structs.fields(Settings) if field.name == name)
    if name == "autostart" and text.lower() in ("true", "1", "false", "0"):
        type_ = bool  # the union with str would keep the text
    if name == "redis":
        type_ = str  # a URL; only arguments and files can hold a mapping
    try:
        return msgspec.convert(text.strip(), type_, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(name, _without_value(name, str(error))) from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    variables = {name: ENVIRONMENT_PREFIX + name.upper() for name in Settings.__struct_fields__}
    return {name: from_text(name, environment[key]) for name, key in variables.items() if key in environment}


def _from_file(path: str) -> dict[str, Any]:
    if sys.version_info < (3, 11):
        try:
            import tomli as tomllib
        except ImportError:
            raise SettingsError("config", "a TOML file needs Python 3.11 or the extra rudderpipe[toml]") from None
    else:
        import tomllib
    _check_text("config", path)
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs every import what only this needs
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError("config", f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("config", f"{path} is not TOML: {error}") from None


def _check_url(field: str, text: str, schemes: tuple[str, ...]) -> None:
    from urllib.parse import urlsplit  # as above

    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise SettingsError(field, "is not a URL") from None
    if url.scheme not in schemes:
        raise SettingsError(field, f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not url.hostname:
        raise SettingsError(field, "names no host")
    if any(character <= " " for character in text):
        raise SettingsError(field, "holds a blank")
