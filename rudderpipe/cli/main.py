"""The command line: the parser of its arguments, and the call of the command that they name."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from argparse import ArgumentTypeError
from datetime import datetime, timezone
from typing import Any

from rudderpipe import settings as settings_module
from rudderpipe._version import VERSION
from rudderpipe.errors import RudderpipeError, SettingsError
from rudderpipe.log_text import lines
from rudderpipe.process.clock import Clock
from rudderpipe.service.signals import EXIT_OK, EXIT_UNAVAILABLE, EXIT_USAGE
from rudderpipe.settings import CLIENTS, Settings

INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE has ended."""


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return a command's settings: options beat the environment, which beats the file. Raise ``SettingsError``."""
    explicit: dict[str, Any] = {}
    environment = dict(os.environ)
    for name in _NAMES:
        text = getattr(arguments, name, None)
        if text is None:
            continue
        if name == "redis" and text == "none":
            environment.pop("RUDDERPIPE_REDIS", None)
        else:
            explicit[name] = settings_module.from_text(name, text)
    return settings_module.load(explicit, environment=environment, config=arguments.config)


HELP = {
    "write_key": "prefer RUDDERPIPE_WRITE_KEY, because every user of the machine can read arguments",
    "data_plane_url": "the URL of the data plane",
    "path": "the path that is added to the URL",
    "data_plane_id": "one id for several URLs of the same data plane",
    "gzip": "true or false: compress requests",
    "connect_timeout_s": "time limit for a connection, in seconds",
    "timeout_s": "time limit from a sent request to the end of its response, in seconds",
    "proxy_url": "the URL of an HTTP proxy",
    "ca_file": "a file with the certificates to trust",
    "log_level": "debug, info, warning, error or none",
    "flush_at": "events in a batch",
    "flush_interval_ms": "how long fewer events than a batch wait in the ring, in milliseconds",
    "max_internal_queue_size": "events that the ring may hold, at most",
    "max_batch_bytes": "size limit of a batch, in bytes",
    "redis": "the URL of Redis; none sends events directly to the data plane, without a queue",
    "queue_name": "the name of the queue in Redis",
    "prefix": "the prefix of the queue's keys in Redis",
    "is_multi_processor": "true or false: let several senders work at once, without keeping the order",
    "lease_ms": "how long the active sender may be silent before another takes over, in milliseconds",
    "max_attempts": "attempts before a job goes to the failed set",
    "max_jobs_per_request": "waiting jobs that may share a request",
    "max_request_bytes": "size limit of a shared request, in bytes",
    "max_queue_bytes": "memory that the jobs may take in Redis, in bytes",
    "stall_timeout_s": "/healthz fails when waiting jobs have not moved for so many seconds",
    "keep_completed": "delivered jobs that stay in Redis",
    "keep_failed": "failed jobs that are kept, at most",
    "keep_failed_s": "how long failed jobs are kept, in seconds",
    "pipe": "the name of the ring",
    "runtime_dir": "the directory of lock files and logs",
    "spool_dir": "the directory of dead letters",
    "ring_bytes": "shared memory of each ring, in bytes",
    "autostart": "true: start flusher and sender automatically; flusher: only the flusher; false: neither",
    "when_full": "drop, block or raise: what a call does when the ring refuses its event",
    "block_timeout_ms": "how long a call waits with --when-full block, in milliseconds",
    "max_spool_bytes": "size limit of the dead letters, in bytes",
    "shutdown_timeout_s": "time limit of the drain at the end, in seconds",
    "linger_s": "how long an automatically started process stays when no process needs it, in seconds",
}
_NAMES = [name for name in Settings.__struct_fields__ if name not in CLIENTS]


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a TOML file with settings")
    group = parser.add_argument_group(
        "settings",
        "docs/settings.md describes them. An environment variable can set each: --flush-at is RUDDERPIPE_FLUSH_AT.",
    )
    for name in _NAMES:
        group.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", dest=name, help=HELP[name])


def _send(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.send import send

    return send(settings_of(arguments), arguments.file, as_json=arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.status import status

    return status(settings_of(arguments), as_json=arguments.json, producers=arguments.producers)


def _failed(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli import failed
    from rudderpipe.queue.failed_jobs import Selection

    if arguments.action == "show":
        with failed.failed_jobs(settings_of(arguments)) as found:
            return failed.show(found, arguments.id)
    picked = arguments.id or arguments.since or arguments.reason
    if arguments.action in ("retry", "delete") and not (picked or arguments.all):
        arguments.parser.error("choose the failed jobs with --all, or with --id, --since or --reason")
    if picked and arguments.all:
        arguments.parser.error("--all cannot be combined with --id, --since or --reason")
    selection = Selection(
        ids=frozenset(arguments.id) if arguments.id else None,
        since_ms=arguments.since,
        reason=arguments.reason,
    )
    settings = settings_of(arguments)
    with failed.failed_jobs(settings) as found:
        if arguments.action == "list":
            failed.name_other_pipes(settings)
            return failed.list_(found, selection, limit=arguments.limit, as_json=arguments.json)
        if arguments.action == "retry":
            return failed.retry(found, selection, first=arguments.first, dry_run=arguments.dry_run)
        if arguments.action == "delete":
            return failed.delete(found, selection, dry_run=arguments.dry_run)
        return failed.export(found, selection, arguments.file, dry_run=arguments.dry_run)


def _add_failed(failed: argparse.ArgumentParser) -> None:
    failed.set_defaults(run=_failed)
    actions = failed.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, what in (
        ("list", "print one line for each failed job, oldest first"),
        ("show", "print one failed job with its events, without the write key"),
        ("retry", "make failed jobs wait for delivery again, oldest first, with their attempts counted from 0"),
        ("export", "write the events of failed jobs as NDJSON, which `rudderpipe send` reads; the jobs stay failed"),
        ("delete", "delete failed jobs permanently"),
    ):
        last = {"show": " ID", "export": " FILE"}.get(name, "")
        action = actions.add_parser(name, help=what, usage=f"rudderpipe failed {name} [options]{last}")
        action.set_defaults(parser=action)
        if name == "show":
            action.add_argument("id", metavar="ID")
        else:
            action.add_argument("--all", action="store_true", help="all failed jobs")
            action.add_argument("--id", action="append", metavar="ID", help="the job with this id; may be repeated")
            action.add_argument(
                "--since",
                type=moment_ms,
                metavar="TIME",
                help="jobs that failed since this time: 90s, 15m, 2h or 7d ago, or an ISO date",
            )
            action.add_argument(
                "--reason", metavar="TEXT", help="jobs whose failure reason contains this text (case-insensitive)"
            )
        if name == "list":
            action.add_argument("--limit", type=int, metavar="N", help="print at most N jobs")
            action.add_argument("--json", action="store_true", help="print one JSON object for each job")
        if name == "retry":
            action.add_argument("--first", action="store_true", help="put them before the waiting jobs (needs a queue)")
        if name == "export":
            action.add_argument("file", metavar="FILE", help="the file to write; - is standard output")
        if name in ("retry", "export", "delete"):
            action.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
        _add_settings(action)


def _queue(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.queue import queue

    return queue(settings_of(arguments), adopt=arguments.adopt)


def _rings(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.rings import rings

    return rings(settings_of(arguments).runtime_dir, as_json=arguments.json)


def _drain(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.drain import drain

    return drain(settings_of(arguments), arguments.of_pipe, arguments.ring, arguments.timeout)


def _add_rings(commands: Any) -> None:
    rings = commands.add_parser(
        "rings", help="list this user's rings on this host (as root: of every user), their events and their flushers"
    )
    rings.add_argument("--json", action="store_true", help="print JSON")
    rings.add_argument("--config", metavar="FILE", help="a TOML file with settings")
    rings.add_argument("--runtime-dir", metavar="DIRECTORY", dest="runtime_dir", help="also look here for lock files")
    rings.set_defaults(run=_rings)

    drain = commands.add_parser(
        "drain",
        help="move the events of a ring that no process serves to Redis or the data plane, then exit",
        usage="rudderpipe drain [options] [PIPE]",
    )
    drain.add_argument(
        "of_pipe", nargs="?", metavar="PIPE", help="all rings of this pipe (default: the pipe of the settings)"
    )
    drain.add_argument("--ring", metavar="NAME", help="only this ring; `rudderpipe rings` prints the names")
    drain.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to try, at most (default 60)"
    )
    _add_settings(drain)
    drain.set_defaults(run=_drain)


def _data_plane(arguments: argparse.Namespace) -> int:
    from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour

    misbehaviour = Misbehaviour(arguments.fail, arguments.times, arguments.delay_ms)
    with DataPlaneServer(arguments.port, misbehaviour) as server:
        print(f"data plane listening on {server.url}, counts on {server.url}/stats", flush=True)
        server.serve_forever()
    return EXIT_OK


def _demo(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.demo import demo

    return demo(arguments.seconds)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    made = argparse.ArgumentParser(prog="rudderpipe", description="Send events to RudderStack without losing them.")
    made.add_argument("--version", action="version", version=f"rudderpipe {VERSION}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    send = commands.add_parser(
        "send",
        help="send the events of an NDJSON file, one message a line, and wait until they are delivered",
        usage="rudderpipe send [options] [FILE]",
    )
    send.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="the file to read; - or nothing is standard input"
    )
    send.add_argument("--json", action="store_true", help="print one JSON object with the counts")
    _add_settings(send)
    send.set_defaults(run=_send)

    status = commands.add_parser(
        "status",
        help="show what the ring and the queue hold, and whether every accepted event is accounted for",
        usage="rudderpipe status [options]",
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--producers", action="store_true", help="also print a line for each process that sends events")
    _add_settings(status)
    status.set_defaults(run=_status)

    _add_rings(commands)
    _add_failed(commands.add_parser("failed", help="list, show, retry, export or delete failed jobs"))

    queue = commands.add_parser(
        "queue", help="show which data plane the jobs of the queue are for", usage="rudderpipe queue [options]"
    )
    queue.add_argument(
        "--adopt", action="store_true", help="assign the queue, with all its jobs, to the data plane of these settings"
    )
    _add_settings(queue)
    queue.set_defaults(run=_queue)

    plane = commands.add_parser(
        "data-plane", help="run a local data plane, for tests, that counts the events it receives"
    )
    plane.add_argument(
        "--port",
        type=int,
        default=8080,
        choices=range(65_536),
        metavar="PORT",
        help="the port on 127.0.0.1; 0 lets the system choose one (default 8080)",
    )
    plane.add_argument(
        "--fail", type=int, default=0, metavar="STATUS", help="respond with this status instead of accepting events"
    )
    plane.add_argument("--times", type=int, default=None, help="how many requests fail (default: all)")
    plane.add_argument("--delay-ms", type=int, default=0, help="delay each response by so many milliseconds")
    plane.set_defaults(run=_data_plane)

    show = commands.add_parser("demo", help="run the whole pipe under load, kill processes, and count lost events")
    show.add_argument("--seconds", type=float, default=8.0, help="how long to send events (default 8)")
    show.set_defaults(run=_demo)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return BROKEN_PIPE
    except SettingsError as error:
        print(lines(f"rudderpipe: {error}"), file=sys.stderr)
        return EXIT_USAGE
    except (RudderpipeError, OSError) as error:
        print(lines(f"rudderpipe: {error}"), file=sys.stderr)
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        print(
            "\nrudderpipe: interrupted; accepted events stay in the pipe, and the flusher and the sender deliver them",
            file=sys.stderr,
        )
        return INTERRUPTED


UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_ms(text: str) -> int:
    """Return the moment ``90s``, ``15m``, ``2h`` or ``7d`` ago, or of an ISO date (UTC unless it has a zone), in ms.

    The result counts from 1970. Raise ``ArgumentTypeError`` for other text.
    """
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return Clock().time_ms() - int(ago[1]) * UNITS_S[ago[2]] * 1000
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ArgumentTypeError("must be 90s, 15m, 2h or 7d (ago), or a date such as 2026-11-24T08:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)
