"""``python -m rudderpipe.sender``: parses, wires, runs, returns an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rudderpipe import log_text
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Courier
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.heartbeat import Keeper
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.state import Facts
from rudderpipe.service import bootstrap, health
from rudderpipe.service.http import AdminServer, parse_address, text_of
from rudderpipe.service.loop import Idle, run
from rudderpipe.service.signals import EXIT_OK, StopFlag
from rudderpipe.service.systemd import Notify
from rudderpipe.settings import Settings

IDLE_MAX_S = 0.2
"""Jobs wait in Redis, whose room is not the ring's: polling less costs a moment, and nothing else."""
logger = log_text.logger("rudderpipe.sender")


def orphaned(parent: int | None) -> Callable[[], bool]:
    """Return what tells whether the process that started us is gone; never where an operator did."""
    if parent is None:
        return lambda: False
    if os.getppid() == parent:
        return lambda: os.getppid() != parent
    return identity.of(parent).is_gone  # a frozen application's loader stands between us


def serve(settings: Settings, stop: StopFlag, clock: Clock, parent: int | None, admin: str | None) -> None:
    """Deliver until we are told to stop, or until our parent is gone and nothing is left to do."""
    queue, plane = Queue(settings, clock), DataPlane(settings)
    facts = Facts(clock.monotonic_s(), settings.stall_timeout_s)
    notify = Notify.from_environment(os.environ)
    lease = None
    if not settings.is_multi_processor:
        lease = Lease(queue, settings.lease_ms, identity.address(), identity.is_surely_dead)

    def observed() -> health.Facts:
        return facts.health(clock.monotonic_s())

    def tick() -> None:
        if stop.raised and not facts.stopping:
            facts.stopping = True
            notify.stopping()
        if not health.is_stalled(observed()):
            notify.beat(clock.monotonic_s())

    keeper = Keeper(Queue(settings, clock, queue.token), facts, settings, clock, tick)
    sender = Sender(
        queue,
        Courier(plane, settings, clock),
        lease,
        settings,
        clock,
        facts=facts,
        abandoned=orphaned(parent),
    )

    def overdue() -> None:
        facts.aborting = True
        plane.abort()

    stop.bound(settings.shutdown_timeout_s, overdue)
    server = None
    if admin is not None:
        answers = {"/healthz": lambda: health.healthz(observed()), "/readyz": lambda: health.readyz(observed())}
        server = AdminServer(parse_address(admin), answers)
        server.start()
        logger.info("admin address=%s", text_of(*server.address))
    keeper.start()
    notify.ready(f"serving {settings.queue_name} at {settings.redis_place}")
    try:
        run(sender, stop, clock, shutdown_timeout_s=settings.shutdown_timeout_s, idle=Idle(clock, IDLE_MAX_S))
    finally:
        if server is not None:
            server.close()
        keeper.stop()
        plane.close()


def main() -> int:
    """The program; an exit code. Raises what ``service.guarded`` turns into one."""
    parser = bootstrap.parser("sender", "Delivers the events in the queue to the data plane.")
    parser.add_argument("--parent", type=int, metavar="PID", help="end after this process, our parent (autostart)")
    parser.add_argument("--admin", metavar="HOST:PORT", help="serve /healthz and /readyz there; off by default")
    arguments = parser.parse_args()
    clock, stop = Clock(), bootstrap.stop_flag(arguments)
    settings = bootstrap.settings_of(arguments)
    settings.require("data_plane_url", "redis")
    bootstrap.log_to(arguments, settings.log_level)
    stop.install()
    logger.info("serving redis=%s queue=%s", settings.redis_place, settings.queue_name)
    serve(settings, stop, clock, arguments.parent, arguments.admin)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(bootstrap.guarded("sender", main))
