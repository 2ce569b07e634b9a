"""All settings as one frozen value, which is checked once; from arguments, the environment and a TOML file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rudderpipe.errors import SettingsError
from rudderpipe.settings import mistakes, names, proxies, secret_file
from rudderpipe.settings.redis_url import PATHS, RedisAddress, addresses

ENVIRONMENT_PREFIX = "RUDDERPIPE_"
CONFIG_VARIABLE = "RUDDERPIPE_CONFIG"
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
SECRET_FILES = ("write_key_file", "redis_password_file")
CREDENTIALS = {"write_key": "write_key_file", "redis_password": "redis_password_file"}
"""The names of credentials of systemd, and the settings that they stand for."""
EVENT_LIMIT_BYTES = 4_000_000  # the gateway takes 4,096,000 decompressed bytes a request (Gateway.maxReqSizeInKB)
LANES_BYTES = 8_000_000
"""The size limit of the requests of all lanes together."""

CLIENTS = ("enable", "sync_mode", "strict", "trace_context")
"""Settings that only a client uses, not its flusher or sender."""
OBJECTS = ("before_send", "sample_events", "sample_users", "scrubber", "context", "integrations", "default", "on_error")
"""Arguments of a client that are no settings, because most of them are Python objects."""
LOG_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "none": 100}

Bytes = Annotated[int, Meta(ge=1024, le=EVENT_LIMIT_BYTES)]
Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]

# What a value must be, in words, where its type does not say it.
PATH_WORDS = "text that begins with / and has at most 1000 printable ASCII characters, without blanks"
ID_WORDS = "text of 1 to 200 printable ASCII characters, without blanks"
PIPE_WORDS = "text of 1 to 64 letters, digits, dots, underscores and hyphens"
LANE_WORDS = "a power of two from 1 to 64"
AUTOSTART_WORDS = 'true, false or "flusher"'


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Every setting of rudderpipe; ``docs/settings.md`` says when to raise or lower each.

    Explicit arguments take precedence over the environment (``RUDDERPIPE_`` and the name in upper case), and the
    environment takes precedence over the file.
    """

    # where events go
    write_key: str = ""
    write_key_file: str | None = None
    data_plane_url: str = ""
    path: Annotated[str, Meta(pattern="^/[!-~]*$", max_length=1000, description=PATH_WORDS)] = names.USUAL_PATH
    data_plane_id: Annotated[str, Meta(pattern="^[!-~]{1,200}$", description=ID_WORDS)] | None = None
    gzip: bool = True
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 5.0
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    proxy_url: str | None = None
    ca_file: str | None = None
    # what a client does with events
    enable: bool = True
    sync_mode: bool = False
    strict: bool = False
    trace_context: bool = False
    log_level: Literal["debug", "info", "warning", "error", "none"] | None = None
    log_format: Literal["text", "json"] = "text"
    # batches
    flush_at: Annotated[int, Meta(ge=1, le=10_000)] = 20
    flush_interval_ms: Milliseconds = 20_000
    max_internal_queue_size: Annotated[int, Meta(ge=1, le=100_000_000)] = 20_000
    max_batch_bytes: Bytes = 460_800
    # the queue
    redis: Annotated[
        str | RedisAddress | tuple[str | RedisAddress, ...] | None,
        Meta(description="a URL, a mapping or a list of these"),
    ] = None
    redis_password_file: str | None = None
    redis_replicas: Annotated[int, Meta(ge=0, le=100)] = 0
    redis_replicas_strict: bool = True
    queue_name: Name = "rudderEventsQueue"
    prefix: Name = "rudder"
    queues: Annotated[int, Meta(ge=1, le=256)] = 1
    is_multi_processor: bool = False
    lanes: Annotated[Literal[1, 2, 4, 8, 16, 32, 64], Meta(description=LANE_WORDS)] = 1
    lease_ms: Annotated[int, Meta(ge=1_000, le=600_000)] = 10_000
    max_attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    max_jobs_per_request: Annotated[int, Meta(ge=1, le=1000)] = 500
    max_request_bytes: Bytes = 3_900_000
    max_queue_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | None = None
    stall_timeout_s: Annotated[float, Meta(ge=1, le=86_400)] = 120.0
    keep_completed: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    keep_failed: Annotated[int, Meta(ge=0, le=100_000_000)] | None = None
    keep_failed_s: Annotated[float, Meta(ge=0, le=10 * 366 * 86_400)] | None = None
    # the ring and the processes
    pipe: Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$", description=PIPE_WORDS)] | None = None
    runtime_dir: str | None = None
    spool_dir: str | None = None
    ring_bytes: Annotated[int, Meta(ge=1 << 20, le=(1 << 32) - 65_536)] = 32 << 20
    autostart: Annotated[bool | str, Meta(description=AUTOSTART_WORDS)] = True
    when_full: Literal["drop", "block", "raise"] = "drop"
    block_timeout_ms: Milliseconds = 1_000
    max_spool_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 64 << 20
    spill_dir: str | None = None
    max_spill_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] = 1 << 30
    shutdown_timeout_s: Seconds = 10.0
    linger_s: Seconds = 5.0

    def __repr__(self) -> str:
        shown = {k: v for k, v in msgspec.structs.asdict(self).items() if k not in ("write_key", "redis", "proxy_url")}
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    def __post_init__(self) -> None:
        if self.autostart not in (True, False, "flusher"):
            raise SettingsError("autostart", f"must be {AUTOSTART_WORDS}")
        if self.write_key and self.write_key_file:
            raise SettingsError("write_key_file", "must not be given together with write_key")
        if self.data_plane_url:
            _check_url("data_plane_url", self.data_plane_url, ("http", "https"))
            if "@" in self.data_plane_url.partition("//")[2].partition("/")[0]:
                reason = "must not contain a user name; only the write key identifies the source"
                raise SettingsError("data_plane_url", reason)
            if "?" in self.data_plane_url or "#" in self.data_plane_url:
                reason = "must not contain a query or a fragment, because path is appended to the URL"
                raise SettingsError("data_plane_url", reason)
        if self.proxy_url:
            _check_url("proxy_url", self.proxy_url, ("http", "https"))
        servers = self.redis_servers
        if self.redis is not None and not servers:
            raise SettingsError("redis", "must not be an empty list")
        if len(servers) > 1 and any(each.cluster_nodes for each in servers):
            raise SettingsError("redis", "must not be a list with a cluster, which has several nodes itself")
        if self.redis_password_file and any(each.password is not None for each in servers):
            raise SettingsError("redis_password_file", "must not be given together with a password in redis")
        if self.prefix.startswith(("{}", "}")):
            raise SettingsError("prefix", "must not begin with } or {}; a cluster would not keep the keys in one slot")

    @property
    def redis_place(self) -> str:
        """The address of Redis as text, without user and password; empty in direct mode."""
        return self.redis_address.place if self.redis is not None else ""

    @property
    def redis_address(self) -> RedisAddress:
        """The address of Redis, the first one of a list. Raises ``SettingsError`` in direct mode."""
        if self.redis is None:
            raise SettingsError("redis", "is missing")
        return self.redis_servers[0]

    @property
    def redis_servers(self) -> tuple[RedisAddress, ...]:
        """The addresses of all Redis servers; empty in direct mode. As text, several URLs have blanks in between."""
        return () if self.redis is None else addresses(self.redis)

    def of_queue(self, prefix: str, server: int) -> Settings:
        """Return the settings of one of several queues, with its prefix and with the Redis server that has it."""
        servers = self.redis_servers
        return msgspec.structs.replace(self, prefix=prefix, redis=servers[server % len(servers)], queues=1)

    @property
    def current_write_key(self) -> str:
        """The write key, out of ``write_key_file`` as it is now. Raises ``SettingsError`` if it never could be read."""
        if self.write_key_file is None:
            return self.write_key
        return secret_file.of("write_key_file", self.write_key_file).value()

    def redis_password(self) -> str | None:
        """Return the password of Redis, out of ``redis_password_file`` as it is now, or None without one.

        Raises ``SettingsError`` if the file never could be read.
        """
        if self.redis_password_file is None:
            return self.redis_address.password
        return secret_file.of("redis_password_file", self.redis_password_file).value()

    @property
    def lanes_in_use(self) -> int:
        """The number of lanes; 1 where ``lanes`` is ignored."""
        return 1 if self.sync_mode or self.redis is None or self.is_multi_processor else self.lanes

    @property
    def lane_bytes(self) -> int:
        """How many bytes a request of one lane may hold, because the requests of all lanes are in memory at once."""
        return min(self.max_request_bytes, LANES_BYTES // self.lanes_in_use)

    @property
    def ignored(self) -> list[str]:
        """A line for the log for each given setting that has no effect beside the others."""
        alone = self.sync_mode or self.redis is None
        lines = {
            "the setting lanes is ignored, because no queue is used": self.lanes > 1 and alone,
            "the setting lanes is ignored, because several senders work without order": self.lanes > 1
            and self.is_multi_processor
            and not alone,
            "the setting queues is ignored, because no queue is used": self.queues > 1 and alone,
            "the setting spill_dir is ignored, because no queue is used": self.spill_dir is not None and alone,
        }
        return [line for line, is_ignored in lines.items() if is_ignored]

    @property
    def endpoint(self) -> str:
        """The URL that batches are posted to, in its normal form; empty without ``data_plane_url``."""
        return names.endpoint(self.data_plane_url, self.path)

    @property
    def plane_id(self) -> str:
        """The identity of this data plane; it contains nothing secret, and is empty without a data plane."""
        return self.data_plane_id or self.endpoint

    @property
    def pipe_name(self) -> str:
        """The explicit name, or a hash of write key, data plane and queue, which reveals none of them.

        An explicit name with a queue and the same name without a queue are two pipes, because their flushers differ.
        """
        if self.pipe:
            return f"{self.pipe}.queue" if self.redis is not None else self.pipe
        return names.pipe(self._source, self.endpoint, self._queue_parts)

    @property
    def pipe_names(self) -> list[str]:
        """The pipe's name, followed by the names that earlier versions may have given it."""
        if self.pipe:
            return [self.pipe_name]
        former = names.former_pipes(
            self._source, self.data_plane_url, self.endpoint, self._queue_parts, self.redis_place
        )
        return list(dict.fromkeys((self.pipe_name, *former)))

    @property
    def _source(self) -> str:
        """What names the source: the write key, or the path of its file, because a key in a file may change."""
        return f"file:{self.write_key_file}" if self.write_key_file else self.write_key

    @property
    def _queue_parts(self) -> tuple[str, ...]:
        return () if self.redis is None else (names.redis(self.redis_address), self.queue_name, self.prefix)

    def for_processes(self) -> Settings:
        """Return the settings with ``CLIENTS`` at fixed values, so that clients that differ only there share a pipe."""
        when_full = "raise" if self.strict else self.when_full
        fixed = {"enable": True, "sync_mode": False, "strict": False, "trace_context": False}
        return msgspec.structs.replace(self, when_full=when_full, **fixed)

    def require(self, *fields: str) -> None:
        """Raise ``SettingsError`` for the first of these settings that is empty, or whose file cannot be read."""
        for field in fields:
            if field == "write_key" and self.current_write_key:
                continue
            if not getattr(self, field):
                raise SettingsError(
                    field, f"is missing; give it as an argument or as {ENVIRONMENT_PREFIX}{field.upper()}"
                )


def load(
    explicit: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    config: str | os.PathLike[str] | None = None,
    base: Settings | None = None,
) -> Settings:
    """Return the settings from all three sources; an explicit ``None`` counts as not given.

    With ``base``, the explicit settings replace those of ``base``, and neither environment nor file is read.

    The default of ``environment`` is ``os.environ``. The file is ``config``, or the file that ``RUDDERPIPE_CONFIG``
    names. Without ``proxy_url`` the environment's proxies apply (HTTPS_PROXY and the like); ``proxy_url=""`` means no
    proxy. Raises ``SettingsError``, which names the setting.
    """
    if base is not None and not isinstance(base, Settings):
        raise SettingsError("settings", f"must be a rudderpipe.Settings, not {type(base).__name__}")
    if base is not None and config is not None:
        raise SettingsError("config", "must not be given together with settings, because no file is read then")
    merged: dict[str, Any]
    if base is not None:
        environment, merged = {}, _given(msgspec.structs.asdict(base))
    else:
        environment = os.environ if environment is None else environment
        config = config or environment.get(CONFIG_VARIABLE)
        merged = _from_file(os.fspath(config)) if config else {}
        _add(merged, _from_environment(environment))
    _add(merged, _given(explicit or {}))
    _add_credentials(merged, environment)
    _check_text("", merged)
    for name in ("runtime_dir", "spool_dir", "spill_dir", "ca_file", *SECRET_FILES):
        if isinstance(merged.get(name), str):
            merged[name] = _absolute(name, merged[name])
    if isinstance(merged.get("redis"), (list, tuple)):
        merged["redis"] = [_with_absolute_paths(each) for each in merged["redis"]]
    else:
        merged["redis"] = _with_absolute_paths(merged.get("redis"))
    if "proxy_url" not in merged and isinstance(merged.get("data_plane_url"), str):
        merged["proxy_url"] = proxies.from_environment(environment, merged["data_plane_url"])
    return _convert(merged)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _add(merged: dict[str, Any], more: dict[str, Any]) -> None:
    """Add settings of a source that takes precedence. Its write key replaces a file of one, and the other way round."""
    for name, other in (("write_key", "write_key_file"), ("write_key_file", "write_key")):
        if name in more and other not in more:
            merged.pop(other, None)
    merged |= more


def _add_credentials(merged: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Add the secrets that systemd has put into the unit's directory of credentials, if no setting gives others."""
    directory = environment.get(CREDENTIALS_VARIABLE)
    if not directory:
        return
    for name, setting in CREDENTIALS.items():
        path = f"{directory}/{name}"
        is_wanted = name == "write_key" or (merged.get("redis") is not None and not _has_password(merged["redis"]))
        if is_wanted and name not in merged and setting not in merged and os.path.exists(path):  # noqa: PTH110  # as above
            merged[setting] = path
    if str(merged.get("write_key_file", "")).startswith(f"{directory}/") and not merged.get("pipe"):
        reason = "must be given with a credential of systemd, because the units of a pipe have different directories"
        raise SettingsError("pipe", reason)


def _with_absolute_paths(redis: Any) -> Any:
    if not isinstance(redis, Mapping):
        return redis
    return {
        name: _absolute(f"redis.{name}", value) if name in PATHS and isinstance(value, str) else value
        for name, value in redis.items()
    }


def _has_password(redis: Any) -> bool:
    if isinstance(redis, Mapping):
        return redis.get("password") is not None
    if isinstance(redis, (list, tuple)):
        return any(map(_has_password, redis))
    if isinstance(redis, str):
        return any(each.password is not None for each in addresses(redis))
    return redis.password is not None


def _check_text(path: str, value: Any) -> None:
    """Refuse text that is not UTF-8 or contains NUL, because names, files and processes cannot take it."""
    if isinstance(value, str):
        if "\0" in value:
            raise SettingsError(path, "must not contain a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SettingsError(path, "must be UTF-8 text") from None
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if isinstance(name, str):
                _check_text(f"{path}.{ascii(name)[1:-1]}".lstrip("."), each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_text(path, each)


def _absolute(name: str, path: str) -> str:
    """Return the absolute path, because autostarted processes run in /."""
    try:
        return os.path.abspath(path)  # noqa: PTH100  # pathlib's version keeps dots
    except OSError as error:
        reason = f"is a relative path, but the working directory cannot be read: {error.strerror}"
        raise SettingsError(name, reason) from None


def from_json(text: bytes) -> Settings:
    """Return the settings that a parent process writes to its child's standard input."""
    return msgspec.json.decode(text, type=Settings)


def _convert(values: dict[str, Any]) -> Settings:
    for name in values:
        if name not in Settings.__struct_fields__:
            raise mistakes.unknown(name, (*Settings.__struct_fields__, *OBJECTS))
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise mistakes.of_conversion(error, Settings, RedisAddress) from None


def from_text(name: str, text: str) -> Any:
    """Return a setting's value from the text of a variable or a command's option. Raises ``SettingsError``."""
    _check_text(name, text)
    text = text.strip()
    type_: Any = next(field.type for field in msgspec.structs.fields(Settings) if field.name == name)
    if type_ is bool or (name == "autostart" and text.lower() in mistakes.SWITCH_WORDS):
        return mistakes.switch_of(name, text)
    if name == "redis":
        type_ = str  # a URL, because only arguments and files can give a mapping
    try:
        return msgspec.convert(text, type_, strict=False)
    except msgspec.ValidationError:
        raise SettingsError(name, mistakes.must_be(Settings, name)) from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    variables = {ENVIRONMENT_PREFIX + name.upper(): name for name in Settings.__struct_fields__}
    mistakes.warn_of_variables(environment, ENVIRONMENT_PREFIX, (*variables, CONFIG_VARIABLE))
    return {name: from_text(name, environment[key]) for key, name in variables.items() if key in environment}


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
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib would slow every import down for this line alone
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError("config", f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("config", f"{path} is not TOML: {error}") from None


def _check_url(field: str, text: str, schemes: tuple[str, ...]) -> None:
    from urllib.parse import urlsplit  # here, because only settings with a URL need it

    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise SettingsError(field, "is not a URL") from None
    if url.scheme not in schemes:
        raise SettingsError(field, f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not url.hostname:
        raise SettingsError(field, "must name a host")
    if any(character <= " " for character in text):
        raise SettingsError(field, "must not contain blanks or control characters")
