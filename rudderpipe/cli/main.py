"""The command line: its arguments, and which command they call."""

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


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of a command: its options, then the environment, then the file. Raises ``SettingsError``."""
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


_NAMES = [name for name in Settings.__struct_fields__ if name not in CLIENTS]


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    group = parser.add_argument_group("settings", "each is also RUDDERPIPE_ and its name in upper case")
    for name in _NAMES:
        hint = {
            "redis": "a URL, or none: straight to the data plane",
            "write_key": "better as RUDDERPIPE_WRITE_KEY: arguments can be read by every user of the machine",
        }
        group.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", dest=name, help=hint.get(name))


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
        arguments.parser.error("say which failed jobs: --all, or --id, --since, --reason")
    if picked and arguments.all:
        arguments.parser.error("--all and --id, --since, --reason contradict one another")
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
        ("list", "one line for each, oldest first"),
        ("show", "one job with its events, without the write key"),
        ("retry", "put them back in line with no attempt counted, oldest first"),
        ("export", "write their events as NDJSON that `rudderpipe send` reads; they stay failed"),
        ("delete", "delete them for good"),
    ):
        last = {"show": " ID", "export": " FILE"}.get(name, "")
        action = actions.add_parser(name, help=what, usage=f"rudderpipe failed {name} [options]{last}")
        action.set_defaults(parser=action)
        if name == "show":
            action.add_argument("id", metavar="ID")
        else:
            action.add_argument("--all", action="store_true", help="all of them")
            action.add_argument("--id", action="append", metavar="ID", help="this one; may be given again")
            action.add_argument(
                "--since", type=moment_ms, metavar="TIME", help="failed since 90s, 15m, 2h, 7d ago, or an ISO date"
            )
            action.add_argument("--reason", metavar="TEXT", help="whose reason holds this, in upper or lower case")
        if name == "list":
            action.add_argument("--limit", type=int, metavar="N", help="print at most so many lines")
            action.add_argument("--json", action="store_true", help="one JSON object a line")
        if name == "retry":
            action.add_argument("--first", action="store_true", help="ahead of what waits (needs a queue)")
        if name == "export":
            action.add_argument("file", metavar="FILE", help="- is standard output")
        if name in ("retry", "export", "delete"):
            action.add_argument("--dry-run", action="store_true", help="only say what would be done")
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
        "rings", help="every ring on this host, what waits in it, and which process serves it; as root of every user"
    )
    rings.add_argument("--json", action="store_true", help="print JSON")
    rings.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    rings.add_argument("--runtime-dir", metavar="DIRECTORY", dest="runtime_dir", help="where lock files are, too")
    rings.set_defaults(run=_rings)

    drain = commands.add_parser(
        "drain",
        help="hand over what a ring holds that no process serves, with these settings, and end",
        usage="rudderpipe drain [options] [PIPE]",
    )
    drain.add_argument("of_pipe", nargs="?", metavar="PIPE", help="all rings of this pipe (default: of the settings)")
    drain.add_argument("--ring", metavar="NAME", help="only this ring, as `rudderpipe rings` prints it")
    drain.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to try (default 60)")
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
    made = argparse.ArgumentParser(prog="rudderpipe", description="RudderStack events that are not lost.")
    made.add_argument("--version", action="version", version=f"rudderpipe {VERSION}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    send = commands.add_parser(
        "send",
        help="send events from a file of NDJSON in wire form, and wait for them",
        usage="rudderpipe send [options] [FILE]",
    )
    send.add_argument("file", nargs="?", default="-", metavar="FILE", help="- or nothing: standard input")
    send.add_argument("--json", action="store_true", help="print one JSON object with the counts")
    _add_settings(send)
    send.set_defaults(run=_send)

    status = commands.add_parser(
        "status",
        help="what the ring and the queue hold, and whether the account balances",
        usage="rudderpipe status [options]",
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--producers", action="store_true", help="each producer's account, too")
    _add_settings(status)
    status.set_defaults(run=_status)

    _add_rings(commands)
    _add_failed(commands.add_parser("failed", help="the jobs that failed: list, show, retry, export, delete"))

    queue = commands.add_parser(
        "queue", help="which data plane the queue's jobs are for", usage="rudderpipe queue [options]"
    )
    queue.add_argument("--adopt", action="store_true", help="make it that of these settings, with all jobs in it")
    _add_settings(queue)
    queue.set_defaults(run=_queue)

    plane = commands.add_parser("data-plane", help="run a local data plane that counts what it gets")
    plane.add_argument(
        "--port",
        type=int,
        default=8080,
        choices=range(65_536),
        metavar="PORT",
        help="0 lets the system choose (default 8080)",
    )
    plane.add_argument(
        "--fail", type=int, default=0, metavar="STATUS", help="answer this status instead of taking events"
    )
    plane.add_argument("--times", type=int, default=None, help="how often to fail (default: always)")
    plane.add_argument("--delay-ms", type=int, default=0, help="answer late")
    plane.set_defaults(run=_data_plane)

    show = commands.add_parser("demo", help="the whole pipe under load, with processes killed, and its account")
    show.add_argument("--seconds", type=float, default=8.0, help="how long to send (default 8)")
    show.set_defaults(run=_demo)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns an exit code."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    try:
        return int(arguments.run(arguments))
    except SettingsError as error:
        print(lines(f"rudderpipe: {error}"), file=sys.stderr)
        return EXIT_USAGE
    except (RudderpipeError, OSError) as error:
        print(lines(f"rudderpipe: {error}"), file=sys.stderr)
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        print(
            "\nrudderpipe: interrupted; accepted events stay in the pipe, and are delivered by the flusher and sender",
            file=sys.stderr,
        )
        return INTERRUPTED


UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_ms(text: str) -> int:
    """``90s``, ``15m``, ``2h``, ``7d`` ago, or an ISO date, in ms since 1970. Raises ``ArgumentTypeError``."""
    if ago := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return Clock().time_ms() - int(ago[1]) * UNITS_S[ago[2]] * 1000
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ArgumentTypeError("must be 90s, 15m, 2h or 7d (ago), or a date such as 2026-11-24T08:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)
