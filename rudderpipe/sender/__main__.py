"""The program ``python -m rudderpipe.sender``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec

from rudderpipe import log_text
from rudderpipe._version import VERSION
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.process import identity, spawn
from rudderpipe.process.clock import Clock
from rudderpipe.queue.job_wait import JobWait
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.route import QueuePlace
from rudderpipe.sender.children import Children
from rudderpipe.sender.feed import Feed
from rudderpipe.sender.heartbeat import LockRenewer
from rudderpipe.sender.manager import Manager
from rudderpipe.sender.manager_state import healthz, readyz
from rudderpipe.sender.reporting import Reporting
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.sleep import Sleep, longest_wait_s
from rudderpipe.sender.state import SenderState
from rudderpipe.service import bootstrap, health
from rudderpipe.service.arguments import Parser, add_option, number
from rudderpipe.service.http import PATHS, AdminServer, Responses, parse_address, text_of
from rudderpipe.service.loop import Idle, run
from rudderpipe.service.signals import EXIT_OK, StopFlag
from rudderpipe.service.systemd import Notify
from rudderpipe.settings import Settings

CHILDREN_S = 1.0
"""The time after ``shutdown_timeout_s`` in which senders whose requests were cut off put their jobs back."""
IDLE_S = 0.1
"""How long a manager sleeps between two cycles."""
logger = log_text.logger("rudderpipe.sender")


def orphaned(parent: int | None) -> Callable[[], bool]:
    """Return a function that returns whether the parent process has ended; without ``parent`` it returns False."""
    if parent is None:
        return lambda: False
    if os.getppid() == parent:
        return lambda: os.getppid() != parent
    return identity.of(parent).is_gone  # the loader of a frozen application is between the parent and this process


def lanes_of(settings: Settings, clock: Clock) -> tuple[list[DataPlane], list[Dispatcher]]:
    """Return the connections and the dispatchers: for jobs without a lane, and for each of several lanes."""
    count = settings.lanes_in_use
    own = [settings, *[msgspec.structs.replace(settings, max_request_bytes=settings.lane_bytes)] * count]
    planes = [DataPlane(settings) for _ in (own if count > 1 else own[:1])]
    return planes, [Dispatcher(plane, each, clock) for plane, each in zip(planes, own, strict=False)]


def serve(
    settings: Settings,
    stop: StopFlag,
    clock: Clock,
    parent: int | None,
    admin: tuple[str, int] | None,
    *,
    is_managed: bool,
) -> None:
    """Deliver until ``stop`` is raised, or until ``parent`` has ended and nothing is left to do.

    With ``is_managed`` a manager has started this sender and reads its standard output. Its end is like SIGTERM.
    """
    state = SenderState(clock.monotonic_s(), settings.stall_timeout_s)
    queue = Queue(settings, clock, meter=state.counts.redis)
    planes, dispatchers = lanes_of(settings, clock)
    notify = Notify.from_environment(os.environ)
    lease = None
    if not settings.is_multi_processor:
        lease = Lease(queue, settings.lease_ms, identity.address(), identity.is_surely_dead)

    def observed() -> health.Vitals:
        return state.health(clock.monotonic_s())

    def tick() -> None:
        if stop.raised and not state.stopping:
            state.stopping = True
            notify.stopping()
        if not health.is_stalled(observed()):
            notify.beat(clock.monotonic_s())
        reporting.work()

    keepers_queue = Queue(settings, clock, queue.token, meter=state.counts.keepers_redis)
    reporting = Reporting(keepers_queue, state, clock)
    keeper = LockRenewer(keepers_queue, state, settings, clock, tick)
    sender = Sender(
        queue,
        dispatchers,
        lease,
        settings,
        clock,
        state=state,
        abandoned=orphaned(parent),
    )

    def abort() -> None:
        for plane in planes:
            plane.abort()

    stop.bound(settings.shutdown_timeout_s, abort)
    wait = JobWait(settings, longest_wait_s(settings))
    stop.wakes(wait.end)
    server = None
    if admin is not None:
        from rudderpipe.observe.admin import of_sender  # imported here, because an autostarted sender has no use for it
        from rudderpipe.observe.reader import Reader

        answers = {
            "/healthz": lambda _accept: health.healthz(observed()),
            "/readyz": lambda _accept: health.readyz(observed()),
            **of_sender(settings, Reader(settings, clock, has_rings=False), state, planes, sender.lanes_wait_s, clock),
        }
        server = serve_admin(admin, answers)
    keeper.start()
    if is_managed:
        feed_of(settings, state, planes, sender, clock, stop).start()
    notify.ready(f"serving {settings.queue_name} at {settings.redis_place}")
    try:
        sleep = Sleep(wait, sender.rest_s, longest_wait_s(settings), clock)
        run(sender, stop, clock, shutdown_timeout_s=settings.shutdown_timeout_s, idle=sleep)
    finally:
        if server is not None:
            server.close()
        keeper.stop()
        wait.close()
        for plane in planes:
            plane.close()


def manage(
    arguments: argparse.Namespace, settings: Settings, stop: StopFlag, clock: Clock, admin: tuple[str, int] | None
) -> None:
    """Have senders for this manager's share of the queues, until ``stop`` is raised or they are not needed any more."""
    notify = Notify.from_environment(os.environ)
    own = ["--verbose"] if arguments.verbose else []
    own += ["--log", str(arguments.log.absolute())] if arguments.log else []
    own += ["--parent", str(arguments.parent)] if arguments.parent is not None else []

    def start(place: QueuePlace) -> subprocess.Popen[bytes]:
        payload = msgspec.json.encode(place.settings(settings))
        errors = sys.stderr.fileno()
        given = (f"--managed={place.prefix}", *own)  # `ps` shows which queue each sender has
        return spawn.start(
            "rudderpipe.sender", payload, *given, log=arguments.log, output=subprocess.PIPE, errors=errors
        )

    abandoned = orphaned(arguments.parent)
    children = Children(start, clock, abandoned)
    manager = Manager(settings, children, clock, abandoned=abandoned, on_cycle=lambda: notify.beat(clock.monotonic_s()))
    stop.wakes(notify.stopping)
    stop.bound(settings.shutdown_timeout_s, lambda: None)
    server = None
    if admin is not None:
        from rudderpipe.observe.admin import of_manager  # imported here, because only an admin address needs it
        from rudderpipe.observe.reader import Reader

        answers = {
            "/healthz": lambda _accept: healthz(manager.state, clock.monotonic_s(), settings.stall_timeout_s),
            "/readyz": lambda _accept: readyz(manager.state, clock.monotonic_s()),
            **of_manager(settings, Reader(settings, clock, has_rings=False), lambda: children.lines),
        }
        server = serve_admin(admin, answers)
    notify.ready(f"sharing the queues of {settings.queue_name} at {settings.redis_place}")
    try:
        run(manager, stop, clock, shutdown_timeout_s=settings.shutdown_timeout_s + CHILDREN_S, idle=Idle(clock, IDLE_S))
    finally:
        if server is not None:
            server.close()


def serve_admin(admin: tuple[str, int], answers: Responses) -> AdminServer:
    """Start the server of the admin address. Raise ``SettingsError`` if it cannot listen."""
    server = AdminServer(admin, answers)
    server.start()
    logger.info("serving the admin address paths=%s address=%s", PATHS, text_of(*server.address))
    return server


def feed_of(
    settings: Settings,
    state: SenderState,
    planes: Sequence[DataPlane],
    sender: Sender,
    clock: Clock,
    stop: StopFlag,
) -> Feed:
    """Return what the manager of this sender reads."""
    from rudderpipe.observe.admin import counts_of_sender  # imported here, because other senders have no use for it

    def line() -> bytes:
        return counts_of_sender(settings, state, planes, sender.lanes_wait_s, clock).packed()

    def end() -> None:
        logger.warning("the manager of this sender has ended, so this one ends too")
        stop.parent_ended()

    return Feed(sys.stdout.fileno(), line, lambda: health.is_stalled(state.health(clock.monotonic_s())), end)


def parser() -> Parser:
    """Return the parser of the program's arguments."""
    made = bootstrap.parser("sender", "Delivers the events in the queue to the data plane.")
    parent, pid = "end after this parent process, when no job is left (for autostart)", number(int, 1, 1 << 30)
    add_option(made, "--parent", does=parent, default="none", type=pid, metavar="PID")
    shares = "work on this host's share of all queues, with one sender as a child process for each"
    add_option(made, "--all", does=shares, action="store_true")
    managed = "write to a manager, and end when it has ended; this is the prefix of the queue (for --all)"
    add_option(made, "--managed", does=managed, default="none", metavar="PREFIX")
    add_option(made, "--admin", does=f"serve {PATHS} here", metavar="HOST:PORT")
    return made


def main() -> int:
    """Run the program. Return the exit code, or raise an error that ``bootstrap.guarded`` turns into one."""
    arguments = parser().parse_args()
    is_managed = arguments.managed is not None
    clock, stop = Clock(), bootstrap.stop_flag(arguments, hears_once=is_managed)
    settings = bootstrap.settings_of(arguments)
    settings.require("data_plane_url", "redis")
    admin = parse_address(arguments.admin) if arguments.admin is not None else None
    bootstrap.log_to(arguments, settings, "sender", queue=settings.prefix if is_managed else "")
    if not is_managed:
        bootstrap.warn_of_ignored(settings)
    if settings.queues > 1 and not arguments.all:
        said = "this sender serves the queue of its prefix alone, use --all for every queue queue=%s queues=%d"
        logger.warning(said, settings.prefix, settings.queues)
    stop.install()
    place, name = settings.redis_place, settings.queue_name
    if arguments.all:
        logger.info("manager of senders started version=%s redis=%s queue=%s", VERSION, place, name)
        manage(arguments, settings, stop, clock, admin)
        logger.info("manager of senders ended redis=%s queue=%s", place, name)
        return EXIT_OK
    logger.info("sender started version=%s redis=%s queue=%s", VERSION, place, name)
    serve(settings, stop, clock, arguments.parent, admin, is_managed=is_managed)
    logger.info("sender ended redis=%s queue=%s", place, name)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(bootstrap.guarded("sender", main))
