"""The settings as options of a command, in groups, each with a sentence and its default."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from rudderpipe import settings as settings_module
from rudderpipe.service.arguments import add_option
from rudderpipe.service.signals import EXIT_OK
from rudderpipe.settings import CLIENTS, LOG_LEVELS, Settings

MANY = 1_000_000_000
"""More than any number that a person means."""

GROUPS = {
    "where events go": {
        "write_key": "write key of the source; prefer RUDDERPIPE_WRITE_KEY, because every user of the machine can read "
        "arguments",
        "write_key_file": "file that holds the write key, and is read again when it changes",
        "data_plane_url": "URL of the data plane",
        "path": "path that is added to the URL",
        "data_plane_id": "one id for several URLs of the same data plane",
        "gzip": "true or false: compress requests",
        "connect_timeout_s": "time limit for a connection, in seconds",
        "timeout_s": "time limit from a sent request to the end of its response, in seconds",
        "proxy_url": "URL of an HTTP proxy",
        "ca_file": "file with the certificates to trust",
    },
    "batches": {
        "flush_at": "events in a batch",
        "flush_interval_ms": "how long fewer events than a batch wait in the ring, in milliseconds",
        "max_batch_bytes": "size limit of a batch, in bytes",
        "max_jobs_per_request": "waiting jobs that may share a request",
        "max_request_bytes": "size limit of a shared request, in bytes",
        "max_attempts": "attempts before a job goes to the failed set",
    },
    "the queue": {
        "redis": "URL of Redis; none sends events directly to the data plane, without a queue",
        "redis_password_file": "file that holds the password of Redis, and is read again when it changes",
        "redis_replicas": "replicas of Redis that must have events before they leave the ring",
        "redis_replicas_strict": "true or false: whether events wait for them for longer than 5 s",
        "queue_name": "name of the queue in Redis",
        "prefix": "prefix of the queue's keys in Redis",
        "is_multi_processor": "true or false: let several senders work at once, without keeping the order",
        "queues": "how many queues in Redis share the events, each user's in one of them",
        "lanes": "requests at once, in order for each user: a power of two from 1 to 64",
        "lease_ms": "how long the active sender may be silent before another takes over, in milliseconds",
        "max_queue_bytes": "memory that the jobs may take in Redis, in bytes",
        "keep_completed": "delivered jobs that stay in Redis",
        "keep_failed": "failed jobs that are kept, at most",
        "keep_failed_s": "how long failed jobs are kept, in seconds",
    },
    "the ring": {
        "pipe": "name of the pipe and its ring",
        "ring_bytes": "shared memory of each ring, in bytes",
        "max_internal_queue_size": "events that the ring may hold, at most",
        "when_full": "drop, block or raise: what a call does when the ring refuses its event",
        "block_timeout_ms": "how long a call waits with --when-full block, in milliseconds",
    },
    "the processes": {
        "autostart": "true: start flusher and sender automatically; flusher: only the flusher; false: neither",
        "runtime_dir": "directory of lock files and logs",
        "spool_dir": "directory of dead letters",
        "max_spool_bytes": "size limit of the dead letters, in bytes",
        "spill_dir": "directory of events that wait for Redis when the ring is nearly full",
        "max_spill_bytes": "size limit of these events, in bytes",
        "shutdown_timeout_s": "time limit of the drain at the end, in seconds",
        "linger_s": "how long an automatically started process stays when no process needs it, in seconds",
        "stall_timeout_s": "/healthz fails when waiting jobs have not moved for so many seconds",
        "log_level": "debug, info, warning, error or none",
        "log_format": "text or json: how the flusher and the sender log",
    },
}
DEFAULTS = {
    "write_key": "none, it must be given",
    "write_key_file": "none, or systemd's credential write_key",
    "data_plane_url": "none, it must be given",
    "data_plane_id": "the URL",
    "proxy_url": "that of HTTPS_PROXY and the like",
    "ca_file": "the certificates of the system",
    "redis": "none",
    "redis_password_file": "none, or systemd's credential redis_password",
    "max_queue_bytes": "no limit",
    "keep_failed": "all",
    "keep_failed_s": "forever",
    "pipe": "derived from write key, data plane and queue",
    "runtime_dir": "rudderpipe-<uid> in /dev/shm, on macOS in /tmp",
    "spool_dir": "rudderpipe in XDG_STATE_HOME or ~/.local/state",
    "spill_dir": "none, such events stay in the ring",
    "log_level": "warning",
}
"""Defaults that are no text or no number, in words."""
WORDS = {
    "autostart": ["true", "false", "flusher"],
    "log_level": list(LOG_LEVELS),
    "log_format": ["text", "json"],
    "when_full": ["drop", "block", "raise"],
}
"""Words that a shell completes, of settings that have only some."""
_NAMES = [name for name in Settings.__struct_fields__ if name not in CLIENTS]


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting, and the one of their file."""
    add_config(
        parser.add_argument_group(
            "settings",
            "docs/settings.md describes them. Each is also a variable and a key of the file: --flush-at is "
            "RUDDERPIPE_FLUSH_AT and flush_at. An option beats the variable, which beats the file.",
        )
    )
    defaults = Settings()
    for title, each in GROUPS.items():
        group = parser.add_argument_group(f"settings: {title}")
        for name, does in each.items():
            value = DEFAULTS.get(name) or getattr(defaults, name)
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            option = add_option(group, option_of(name), does=does, default=text, metavar="VALUE", dest=name)
            words = WORDS.get(name, ["true", "false"] if isinstance(value, bool) else [])
            complete_with(option, partial(list, words))


def add_config(to: Any) -> None:
    """Add the option of the file of settings."""
    add_option(to, "--config", does="TOML file with settings", default="that of RUDDERPIPE_CONFIG", metavar="FILE")


def option_of(name: str) -> str:
    """Return the option of a setting."""
    return f"--{name.replace('_', '-')}"


def complete_with(option: argparse.Action, words: Callable[[], list[str]]) -> None:
    """Let a shell complete the option's value with these words, where argcomplete is installed."""
    option.completer = lambda **_: words()  # type: ignore[attr-defined]  # argcomplete reads this attribute


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return a command's settings: options beat the environment, which beats the file. Raise ``SettingsError``."""
    explicit: dict[str, Any] = {}
    environment = dict(os.environ)
    without_queue = getattr(arguments, "redis", None) == "none"
    if without_queue:
        environment.pop("RUDDERPIPE_REDIS", None)
        arguments.redis = None
    for name in _NAMES:
        text = getattr(arguments, name, None)
        if text is not None:
            explicit[name] = settings_module.from_text(name, text)
    settings = settings_module.load(explicit, environment=environment, config=arguments.config)
    return msgspec.structs.replace(settings, redis=None) if without_queue else settings


def help_of(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Return a command that prints the help of a parser, for a command line that ends before it names what to do."""

    def run(_arguments: argparse.Namespace) -> int:
        parser.print_help()
        return EXIT_OK

    return run
