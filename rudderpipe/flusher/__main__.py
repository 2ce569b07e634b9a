"""The program ``python -m rudderpipe.flusher``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from rudderpipe import log_text
from rudderpipe._version import VERSION
from rudderpipe.errors import ProcessNotStarted
from rudderpipe.flusher import dead_letters, leftovers
from rudderpipe.flusher.counts import FlusherCounts
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.heartbeat import Heartbeat
from rudderpipe.flusher.ring_set import Rings
from rudderpipe.flusher.sinks import direct, gone_rings, make_queues_sink, make_sink
from rudderpipe.flusher.sleep import Sleep
from rudderpipe.flusher.state import FlusherState, healthz, readyz, stalled
from rudderpipe.process import runtime_dir, spawn, start_lock
from rudderpipe.process.clock import Clock, Every
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring.ring import Ring
from rudderpipe.service import bootstrap
from rudderpipe.service.arguments import Parser, add_option, number
from rudderpipe.service.http import PATHS, AdminServer, parse_address, text_of
from rudderpipe.service.loop import run
from rudderpipe.service.signals import EXIT_OK, EXIT_RUNNING, StopFlag
from rudderpipe.service.systemd import Notify
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.flusher.redelivery import Redelivery

RESTART_S = 1.0
logger = log_text.logger("rudderpipe.flusher")


class SenderKeeper:
    """The one sender, or manager of senders, that runs beside the flusher. When it ends, another one is started.

    Two starts are at least ``RESTART_S`` apart.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._payload = msgspec.json.encode(settings)
        self._log_file = runtime_dir.log_file(settings)
        self._clock = clock
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = Every(RESTART_S)
        self._serves_all = settings.queues > 1

    def serve_all(self) -> None:
        """Run a manager of senders from now on, because there are several queues. The sender ends first."""
        if not self._serves_all and self._child is not None:
            self._child.terminate()
        self._serves_all = True

    def look_after(self) -> None:
        """Start the sender when none runs."""
        if self._child is not None and self._child.poll() is not None:
            said = "sender ended, starting another; jobs stay in redis exit_code=%d"
            self._log.warning("ended", said, self._child.returncode)
            self._child = None
        if self._child is None and self._starting.is_due(self._clock.monotonic_s()):
            try:
                self._child = spawn.start(
                    "rudderpipe.sender",
                    self._payload,
                    *(["--all"] if self._serves_all else []),
                    "--parent",
                    str(os.getpid()),
                    "--log",
                    str(self._log_file),
                    log=self._log_file,
                )
            except (OSError, ProcessNotStarted) as error:
                said = "the sender cannot be started, jobs wait in redis, trying again error=%s"
                self._log.error("start", said, error)


def serve(
    settings: Settings,
    stop: StopFlag,
    clock: Clock,
    *,
    lingers: bool,
    claim: int | None = None,
    admin: tuple[str, int] | None = None,
) -> int:
    """Serve the pipe's rings until they end or ``stop`` is raised. Return the exit code."""
    redelivery = direct(settings, clock)
    stop.bound(settings.shutdown_timeout_s, redelivery.plane.abort if redelivery else lambda: None)
    sender = SenderKeeper(settings, clock) if settings.redis is not None and settings.autostart is True else None

    state = FlusherState(clock.monotonic_s(), settings.stall_timeout_s)
    notify = Notify.from_environment(os.environ)

    def tick() -> None:
        if stop.raised and not state.stopping:
            state.stopping = True
            notify.stopping()
        if not stalled(state.vitals(clock.monotonic_s())):
            notify.beat(clock.monotonic_s())

    heartbeat = Heartbeat(clock, tick)
    counts = FlusherCounts()
    gone = gone_rings(settings, clock, counts)
    must_wait = gone.are_ahead if gone is not None else lambda _place: False
    server, on_end = admin_of(settings, clock, state, admin, counts, redelivery)

    def make(ring: Ring, *, lingers: bool) -> Flusher:
        look_after = sender.look_after if sender else lambda: None
        on_route = sender.serve_all if sender else lambda: None
        return Flusher(
            ring,
            make_sink(settings, ring, redelivery, clock, counts, must_wait, on_route),
            settings,
            clock,
            lingers=lingers,
            look_after=look_after,
            heartbeat=heartbeat,
            counts=counts,
            next_sink=lambda: make_queues_sink(settings, ring, clock, counts, must_wait, on_route),
        )

    take_over(settings)
    beside = redelivery or gone
    rings = Rings(settings, make, clock, stays=not lingers, beside=beside, state=state, on_end=on_end)
    if not rings.enter():
        logger.warning("another flusher serves this pipe already, so this one ends pipe=%s", settings.pipe_name)
        return EXIT_RUNNING
    if claim is not None:
        start_lock.end(start_lock.file_of(settings), claim)
    if server is not None:
        server.start()
    logger.info("flusher started version=%s pipe=%s lingers=%s", VERSION, settings.pipe_name, lingers)
    if server is not None:
        logger.info("serving the admin address paths=%s address=%s", PATHS, text_of(*server.address))
    heartbeat.start()
    sweep(settings)
    sleep = Sleep(rings, settings, clock)
    stop.wakes(sleep.end)
    state.serves = True
    notify.ready(f"serving {settings.pipe_name}")
    run(rings, stop, clock, shutdown_timeout_s=settings.shutdown_timeout_s, idle=sleep)
    if server is not None:
        server.close()
    logger.info("flusher ended pipe=%s", settings.pipe_name)
    return EXIT_OK


def admin_of(
    settings: Settings,
    clock: Clock,
    state: FlusherState,
    admin: tuple[str, int] | None,
    counts: FlusherCounts,
    redelivery: Redelivery | None,
) -> tuple[AdminServer | None, Callable[[Ring], None]]:
    """Return the server of the admin address, if there is one, and the function to call with each ring that ends."""
    if admin is None:
        return None, lambda _ring: None
    from rudderpipe.observe.admin import of_flusher  # imported here, because an autostarted flusher has no use for it
    from rudderpipe.observe.reader import Reader

    reader = Reader(settings, clock, is_flusher=True)
    answers = {
        "/healthz": lambda _accept: healthz(state.vitals(clock.monotonic_s())),
        "/readyz": lambda _accept: readyz(state.vitals(clock.monotonic_s())),
        **of_flusher(settings, reader, counts, redelivery),
    }
    return AdminServer(admin, answers), reader.ended


def take_over(settings: Settings) -> None:
    """Import dead letters from where they stood before. What cannot be imported stays there."""
    try:
        dead_letters.of(settings).take_over()
    except OSError as error:
        logger.error("dead letters in the runtime directory cannot be imported and stay there error=%s", error)


def sweep(settings: Settings) -> None:
    """Remove the files that ended pipes left in the runtime directory. What cannot be removed stays."""
    try:
        leftovers.sweep(runtime_dir.ensure(settings.runtime_dir), settings.pipe_names)
    except OSError as error:
        logger.warning("files of ended pipes cannot be removed, events are not affected error=%s", error.strerror)


def parser() -> Parser:
    """Return the parser of the program's arguments."""
    made = bootstrap.parser("flusher", "Moves events from the ring to the queue, or without a queue to the data plane.")
    add_option(made, "--detach", does="run in the background (for autostart)", action="store_true")
    does_linger = "end linger_s after the last producer has ended (for autostart)"
    add_option(made, "--lingers", does=does_linger, action="store_true")
    claim, descriptor = "unlock this start lock once serving (for autostart)", number(int, 0, 1 << 30)
    add_option(made, "--claim", does=claim, default="none", type=descriptor, metavar="FD")
    add_option(made, "--check", does="only check that each Redis server takes events", action="store_true")
    add_option(made, "--admin", does=f"serve {PATHS} here", metavar="HOST:PORT")
    return made


def main() -> int:
    """Run the program. Return the exit code, or raise an error that ``bootstrap.guarded`` turns into one."""
    arguments = parser().parse_args()
    clock, stop = Clock(), bootstrap.stop_flag(arguments)
    settings = bootstrap.settings_of(arguments)
    settings.require("write_key", "data_plane_url")
    admin = parse_address(arguments.admin) if arguments.admin is not None else None
    if arguments.check:
        settings.require("redis")
        from rudderpipe.flusher.check import check  # imported here, because direct mode needs no Redis client

        code, said = check(settings, clock)
        print(said, file=sys.stderr)  # noqa: T201  # the result of --check
        return code
    bootstrap.log_to(arguments, settings, "flusher")
    bootstrap.warn_of_ignored(settings)
    if arguments.detach:
        bootstrap.detach()
    stop.install()
    # An application that runs since before an upgrade starts the flusher with --detach alone.
    lingers = arguments.lingers or arguments.detach
    return serve(settings, stop, clock, lingers=lingers, claim=arguments.claim, admin=admin)


if __name__ == "__main__":
    sys.exit(bootstrap.guarded("flusher", main))
