"""The command line: the parser of its arguments, and the call of the command that they name."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rudderpipe._version import VERSION
from rudderpipe.cli import failed_parser
from rudderpipe.cli.options import DEFAULTS, MANY, add_config, add_settings, complete_with, help_of, settings_of
from rudderpipe.errors import IngestionError, RudderpipeError, SettingsError
from rudderpipe.log_text import lines
from rudderpipe.observe.doctor.check import GROUPS
from rudderpipe.process import unix
from rudderpipe.service.arguments import Parser, add_option, number, one_of
from rudderpipe.service.signals import EXIT_OK, EXIT_UNAVAILABLE, EXIT_USAGE
from rudderpipe.settings.mistakes import meant

if TYPE_CHECKING:
    from rudderpipe.observe.host_rings import HostRing

INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE has ended."""
FORMATS = ("ndjson", "json", "batch", "csv", "tsv", "parquet")
"""Same as ``ingestion.formats.FORMATS``, which takes time to load."""
HOUR_MS = 3_600_000


def _send(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.send import Given, send
    from rudderpipe.ingestion.plan import Options

    options = Options(
        format=arguments.format,
        maps=tuple(arguments.map or ()),
        event=arguments.event,
        type=arguments.type,
        timestamp=arguments.timestamp,
        timestamp_format=arguments.timestamp_format,
        from_number=arguments.from_line,
        until_number=arguments.until_line,
    )
    if arguments.no_checkpoint and arguments.checkpoint:
        arguments.parser.error("--checkpoint cannot be combined with --no-checkpoint")
    given = Given(
        paths=arguments.file or ["-"],
        options=options,
        pattern=arguments.pattern,
        checkpoint=arguments.checkpoint,
        no_checkpoint=arguments.no_checkpoint,
        again=arguments.again,
        dry_run=arguments.dry_run,
        rate=arguments.rate,
        rejects=arguments.rejects,
        as_json=arguments.json,
    )
    return send(settings_of(arguments), given)


def _status(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.status import status

    return status(settings_of(arguments), as_json=arguments.json, producers=arguments.producers)


def _top(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.top import top

    every_ring = arguments.pipe == "all"
    if every_ring:
        arguments.pipe = None
    return top(settings_of(arguments), once=arguments.once, every_ring=every_ring)


def _metrics(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.metrics import metrics

    return metrics(settings_of(arguments), arguments.textfile, as_json=arguments.json)


def _doctor(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.doctor import doctor

    return doctor(
        settings_of(arguments),
        arguments.only or (),
        sends=arguments.send_test,
        shows_user=arguments.show_user,
        as_json=arguments.json,
    )


def _queue(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.queue import queue

    if arguments.pause and arguments.resume:
        arguments.parser.error("--pause cannot be combined with --resume")
    pauses = True if arguments.pause else (False if arguments.resume else None)
    return queue(settings_of(arguments), adopt=arguments.adopt, pauses=pauses, as_json=arguments.json)


def _scale(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.scale import scale

    arguments.autostart = arguments.autostart or "false"  # the command starts no sender
    settings = settings_of(arguments)
    return scale(settings, settings.queues, arguments.timeout, force=arguments.force)


def _web(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.web import Given, web

    given = Given(
        arguments.listen,
        arguments.token_file,
        tuple(arguments.allow_host or ()),
        behind_https=arguments.behind_https,
        shows_events=arguments.show_events,
    )
    return web(settings_of(arguments), given)


def _add_web(commands: Any) -> None:
    what = "serve a page that shows the pipe in a browser, and acts on failed jobs and the queue for who has the token"
    page = _add(commands, "web", what, _web)
    where = "address to listen on; any one except loopback needs --token-file"
    add_option(page, "--listen", does=where, default="127.0.0.1:9770", metavar="HOST:PORT")
    file = "file with the token, of 32 characters or more, that only its owner may read"
    add_option(page, "--token-file", does=file, default="none, so nobody may change anything", metavar="FILE")
    host = "also respond under this host name; may be repeated"
    add_option(page, "--allow-host", does=host, default="those of loopback", action="append", metavar="NAME")
    proxy = "a proxy with TLS is in front of the page"
    add_option(page, "--behind-https", does=proxy, action="store_true")
    add_option(page, "--show-events", does="also show the payload of failed events", action="store_true")
    add_settings(page)
    page.set_defaults(listen="127.0.0.1:9770")


def _rings(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.rings import rings

    return rings(settings_of(arguments).runtime_dir, as_json=arguments.json)


def _drain(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.drain import drain

    return drain(settings_of(arguments), arguments.of_pipe, arguments.ring, arguments.timeout, as_json=arguments.json)


def _add_rings(commands: Any) -> None:
    rings = _add(
        commands,
        "rings",
        "list this user's rings on this host (as root: of every user), their events and their flushers",
        _rings,
    )
    add_option(rings, "--json", does="print JSON", action="store_true")
    add_config(rings)
    where = "also look here for lock files"
    add_option(
        rings, "--runtime-dir", does=where, default=DEFAULTS["runtime_dir"], metavar="DIRECTORY", dest="runtime_dir"
    )

    drain = _add(
        commands,
        "drain",
        "move the events of a ring that no process serves to Redis or the data plane, then exit",
        _drain,
        " [PIPE]",
    )
    pipe = drain.add_argument(
        "of_pipe", nargs="?", metavar="PIPE", help="all rings of this pipe (default: the pipe of the settings)"
    )
    ring = "only this ring; `rudderpipe rings` prints the names"
    name = add_option(drain, "--ring", does=ring, default="all rings of the pipe", metavar="NAME")
    timeout = number(float, 0, MANY)
    add_option(drain, "--timeout", does="seconds to try, at most", default=60.0, type=timeout, metavar="SECONDS")
    add_option(drain, "--json", does="print one JSON object for each ring", action="store_true")
    add_settings(drain)
    complete_with(pipe, lambda: [row.pipe for row in _rings_here()])
    complete_with(name, lambda: [row.ring for row in _rings_here()])


def _rings_here() -> list[HostRing]:
    from rudderpipe.observe import host_rings

    return host_rings.of_this_user(os.environ.get("RUDDERPIPE_RUNTIME_DIR"))


def _add_doctor(commands: Any) -> None:
    what = "examine settings, host, processes, Redis and data plane, and say how to mend what is wrong"
    doctor = _add(commands, "doctor", what, _doctor)
    only = f"make only the checks of this group, {', '.join(GROUPS[:-1])} or {GROUPS[-1]}; may be repeated"
    option = add_option(doctor, "--only", does=only, default="all", action="append", type=_group, metavar="GROUP")
    complete_with(option, lambda: list(GROUPS))
    test = "also send one event the whole way, and wait until it is delivered"
    add_option(doctor, "--send-test", does=test, action="store_true")
    user = "name a user who has very many events by the id, which is personal data, and not by its checksum"
    add_option(doctor, "--show-user", does=user, action="store_true")
    add_option(doctor, "--json", does="print one JSON object", action="store_true")
    add_settings(doctor)


def _group(text: str) -> str:
    """Return the name of a group of checks. Raise ``ArgumentTypeError`` for another text."""
    if text not in GROUPS:
        raise argparse.ArgumentTypeError(f"there is no such group{meant(text, GROUPS) or one_of(GROUPS)}")
    return text


def _data_plane(arguments: argparse.Namespace) -> int:
    from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour

    misbehaviour = Misbehaviour(arguments.fail or 0, arguments.times, arguments.delay_ms)
    with DataPlaneServer(arguments.port, misbehaviour) as server:
        print(f"data plane listening on {server.url}, counts on {server.url}/stats", flush=True)
        server.serve_forever()
    return EXIT_OK


def _demo(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli.demo import demo

    return demo(arguments.seconds)


def _add(
    commands: Any, name: str, what: str, run: Callable[[argparse.Namespace], int], last: str = ""
) -> argparse.ArgumentParser:
    usage = f"rudderpipe {name} [options]{last}"
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what, usage=usage)
    made.set_defaults(run=run)
    return made


def parser() -> Parser:
    """Return the parser of the whole command line. Its commands are in the order in which a person meets them."""
    made = Parser(
        prog="rudderpipe",
        description="Send events to RudderStack without losing them.",
        epilog="`rudderpipe COMMAND --help` shows the options of a command; docs/commands.md has the exit codes.",
    )
    made.add_argument("--version", action="version", version=f"rudderpipe {VERSION}", help="show the version and exit")
    made.set_defaults(run=help_of(made))
    commands = made.add_subparsers(title="commands", metavar="COMMAND")

    show = _add(commands, "demo", "run the whole pipe under load, kill processes, and count lost events", _demo)
    seconds = number(float, 0, MANY)
    add_option(show, "--seconds", does="how long to send events", default=8.0, type=seconds, metavar="SECONDS")

    _add_data_plane(commands)

    _add_send(commands)

    status = _add(
        commands,
        "status",
        "show what the ring and the queue hold, and whether every accepted event is accounted for",
        _status,
    )
    add_option(status, "--json", does="print JSON", action="store_true")
    each = "also print a line for each process that sends events"
    add_option(status, "--producers", does=each, action="store_true")
    add_settings(status)

    live = "show once a second how events flow and what is wrong; --pipe all: every ring of this user on this host"
    top = _add(commands, "top", live, _top)
    add_option(top, "--once", does="print it once, as without a terminal", action="store_true")
    add_settings(top)

    metrics = _add(commands, "metrics", "print the metrics of the ring and the queue once, for Prometheus", _metrics)
    textfile = "write them to this file for node_exporter, as a whole"
    add_option(metrics, "--textfile", does=textfile, default="standard output", metavar="FILE")
    add_option(metrics, "--json", does="print a JSON array, for example for Telegraf", action="store_true")
    add_settings(metrics)

    _add_web(commands)
    _add_doctor(commands)
    failed_parser.add(commands)
    _add_rings(commands)

    queue = _add(
        commands, "queue", "show which data plane the jobs of the queue are for, and pause or resume it", _queue
    )
    queue.set_defaults(parser=queue)
    adopt = "assign the queue, with all its jobs, to the data plane of these settings"
    add_option(queue, "--adopt", does=adopt, action="store_true")
    pause = "let no sender take further jobs; events are still accepted and queued"
    add_option(queue, "--pause", does=pause, action="store_true")
    add_option(queue, "--resume", does="let the senders take jobs again", action="store_true")
    add_option(queue, "--json", does="print one JSON object", action="store_true")
    add_settings(queue)
    what = "spread new events over --queues queues, and wait until the queues before them are drained"
    scale = _add(commands, "scale", what, _scale)
    seconds, drains = number(float, 0, 86_400 * 30), "seconds to wait for the earlier queues, at most"
    add_option(scale, "--timeout", does=drains, default=3600.0, type=seconds, metavar="SECONDS")
    force = "ignore flushers of an older version and rings that are not served, although events may be lost or doubled"
    add_option(scale, "--force", does=force, action="store_true")
    add_settings(scale)
    return made


def _add_send(commands: Any) -> None:
    what = "send the events of files, and wait until they are delivered; run again, it goes on where it was stopped"
    send = _add(commands, "send", what, _send, " [FILE ...]")
    send.set_defaults(parser=send)
    files = "the files to read, or folders of files; - is standard input (default: -)"
    send.add_argument("file", nargs="*", metavar="FILE", help=files)
    pattern = "which files of a folder, such as *.ndjson.gz, or **/*.csv with all folders below"
    add_option(send, "--pattern", does=pattern, default="all files directly in it", metavar="PATTERN")
    kinds = "ndjson, json, batch, csv, tsv or parquet"
    form = add_option(send, "--format", does=kinds, default="found by content", metavar="FORMAT")
    complete_with(form, partial(list, FORMATS))
    maps = (
        "make a field of each message from a column: TARGET=COLUMN[:TYPE], such as userId=customer_id; may be repeated"
    )
    add_option(send, "--map", does=maps, default="none", action="append", metavar="TARGET=COLUMN")
    add_option(send, "--event", does="the event of all messages", default="none", metavar="NAME")
    add_option(send, "--type", does="the type of all messages", default="track with --event", metavar="TYPE")
    moment = "the column with the time of the event"
    add_option(send, "--timestamp", does=moment, default="none", metavar="COLUMN")
    written = "a format of strptime, or s, ms, us or ns for a number since 1970"
    add_option(send, "--timestamp-format", does=written, default="ISO 8601, or a number by its size", metavar="FORMAT")
    first, last = number(int, 1, MANY * MANY), number(int, 1, MANY * MANY)
    add_option(send, "--from-line", does="begin at this line of each file", default=1, type=first, metavar="N")
    add_option(send, "--until-line", does="end with this line of each file", default="the last", type=last, metavar="N")
    dry = "check everything, print what would be refused, and send nothing"
    add_option(send, "--dry-run", does=dry, action="store_true")
    add_option(send, "--rate", does="events a second: 500, 30k/s, 1000/min", default="no bound", metavar="N")
    rejects = "write each refused line with its reason to this file"
    add_option(send, "--rejects", does=rejects, default="they are only counted", metavar="FILE")
    path = "where to keep how far it is"
    add_option(send, "--checkpoint", does=path, default="in spool_dir, named by the first file", metavar="FILE")
    add_option(send, "--no-checkpoint", does="do not keep how far it is", action="store_true")
    again = "send everything anew, whatever the checkpoint says"
    add_option(send, "--again", does=again, action="store_true")
    add_option(send, "--json", does="print one JSON object with the counts", action="store_true")
    add_settings(send)


def _add_data_plane(commands: Any) -> None:
    what = "run a local data plane, for tests, that counts the events it receives"
    plane = _add(commands, "data-plane", what, _data_plane)
    port = "port on 127.0.0.1; 0 lets the system choose one"
    add_option(plane, "--port", does=port, default=8080, type=number(int, 0, 65_535), metavar="PORT")
    fail = "respond with this status instead of accepting events"
    add_option(plane, "--fail", does=fail, default="accept them", type=number(int, 200, 599), metavar="STATUS")
    times = "how many requests fail"
    add_option(plane, "--times", does=times, default="all", type=number(int, 0, MANY), metavar="N")
    delay = "delay each response by so many milliseconds"
    add_option(plane, "--delay-ms", does=delay, default=0, type=number(int, 0, HOUR_MS), metavar="N")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    made = parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # only a shell that completes a command line needs it

        argcomplete.autocomplete(made)
    arguments = made.parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return BROKEN_PIPE
    except (SettingsError, IngestionError) as error:
        print(lines(f"rudderpipe: {error}"), file=sys.stderr)
        return EXIT_USAGE
    except (RudderpipeError, OSError) as error:
        print(lines(f"rudderpipe: {error}"), file=sys.stderr)
        return EXIT_UNAVAILABLE
    except (ImportError, AttributeError):
        lacking = unix.lacking()
        if lacking is None:
            raise
        print(f"rudderpipe: this command cannot run here, because this system has no {lacking}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        print(
            "\nrudderpipe: interrupted; accepted events stay in the pipe, and the flusher and the sender deliver them",
            file=sys.stderr,
        )
        return INTERRUPTED
