"""The command line: its arguments, and which command they call."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from rudderpipe import settings as settings_module
from rudderpipe.errors import RudderpipeError, SettingsError
from rudderpipe.settings import Settings
from rudderpipe.signals import EXIT_OK, EXIT_UNAVAILABLE, EXIT_USAGE
from rudderpipe.version import VERSION

INTERRUPTED = 130


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of a command: its options, then the environment, then the file. Raises ``SettingsError``."""
    explicit: dict[str, Any] = {}
    environment = dict(os.environ)
    for name in Settings.__struct_fields__:
        text = getattr(arguments, name, None)
        if text is None:
            continue
        if name == "redis" and text == "none":
            environment.pop("RUDDERPIPE_REDIS", None)
        else:
            explicit[name] = settings_module.from_text(name, text)
    return settings_module.load(explicit, environment=environment, config=arguments.config)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings")
    group = parser.add_argument_group("settings", "each is also RUDDERPIPE_ and its name in upper case")
    for name in Settings.__struct_fields__:
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


def _data_plane(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.data_plane import DataPlaneServer, Misbehaviour

    misbehaviour = Misbehaviour(arguments.fail, arguments.times, arguments.delay_ms)
    with DataPlaneServer(arguments.port, misbehaviour) as server:
        print(f"data plane listening on {server.url}, counts on {server.url}/stats", flush=True)
        server.serve_forever()
    return EXIT_OK


def _demo(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.demo import demo

    return demo(arguments.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rudderpipe", description="RudderStack events that are not lost.")
    parser.add_argument("--version", action="version", version=f"rudderpipe {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    send = commands.add_parser("send", help="send events from a file of NDJSON in wire form, and wait for them")
    send.add_argument("file", nargs="?", default="-", metavar="FILE", help="- or nothing: standard input")
    send.add_argument("--json", action="store_true", help="print one JSON object with the counts")
    _add_settings(send)
    send.set_defaults(run=_send)

    status = commands.add_parser("status", help="what the ring and the queue hold, and whether the account balances")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--producers", action="store_true", help="each producer's account, too")
    _add_settings(status)
    status.set_defaults(run=_status)

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
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns an exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    try:
        return int(arguments.run(arguments))
    except SettingsError as error:
        print(f"rudderpipe: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (RudderpipeError, OSError) as error:
        print(f"rudderpipe: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        print(
            "\nrudderpipe: interrupted; accepted events stay in the pipe, and are delivered by the flusher and sender",
            file=sys.stderr,
        )
        return INTERRUPTED
