"""The settings as keyword arguments, for type checkers and editors; no process loads this module.

``tests/test_settings.py`` compares the names and the types with those of ``Settings``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from rudderpipe.settings.redis_url import RedisAddress


class _Redis(TypedDict, total=False):
    redis: (
        str
        | Mapping[str, Any]
        | RedisAddress
        | Sequence[str | Mapping[str, Any] | RedisAddress]
        | tuple[str | RedisAddress, ...]
        | None
    )


class _Renamed(TypedDict, total=False):
    """What the drop-ins take by the names of other SDKs."""

    gzip: bool
    connect_timeout_s: float
    timeout_s: float
    proxy_url: str | None
    enable: bool
    sync_mode: bool
    strict: bool
    log_level: Literal["debug", "info", "warning", "error", "none"] | None
    flush_at: int
    flush_interval_ms: int
    max_internal_queue_size: int
    max_attempts: int


class _Others(TypedDict, total=False):
    log_format: Literal["text", "json"]
    write_key_file: str | None
    redis_password_file: str | None
    trace_context: bool
    redis_replicas: int
    redis_replicas_strict: bool
    path: str
    data_plane_id: str | None
    ca_file: str | None
    max_batch_bytes: int
    queue_name: str
    prefix: str
    queues: int
    is_multi_processor: bool
    lanes: Literal[1, 2, 4, 8, 16, 32, 64]
    lease_ms: int
    max_jobs_per_request: int
    max_request_bytes: int
    max_queue_bytes: int | None
    stall_timeout_s: float
    keep_completed: int
    keep_failed: int | None
    keep_failed_s: float | None
    pipe: str | None
    runtime_dir: str | None
    spool_dir: str | None
    ring_bytes: int
    autostart: bool | str
    when_full: Literal["drop", "block", "raise"]
    block_timeout_ms: int
    max_spool_bytes: int
    spill_dir: str | None
    max_spill_bytes: int
    shutdown_timeout_s: float
    linger_s: float


class QueueArguments(_Renamed, _Others, total=False):
    """The settings of ``create_persistence_queue``, which has a parameter ``redis``."""


class SettingsArguments(QueueArguments, _Redis, total=False):
    """The settings of ``Client``, which has the parameters ``write_key`` and ``data_plane_url``."""


class DropInArguments(_Others, _Redis, total=False):
    """The settings that a drop-in takes beside the arguments of the SDK whose place it takes."""
