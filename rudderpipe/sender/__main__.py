"""``python -m rudderpipe.sender``: parses, wires, runs, returns an exit code."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable

from rudderpipe import service
from rudderpipe.clock import Clock
from rudderpipe.delivery.post import DataPlane
from rudderpipe.duty import Idle, run
from rudderpipe.locks import LockFile, runtime_dir, shared
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.sender import Sender
from rudderpipe.settings import Settings
from rudderpipe.signals import EXIT_OK, StopFlag

IDLE_MAX_S = 0.05
STANDBY_S = 0.25
logger = logging.getLogger("rudderpipe.sender")


def sender_lock(settings: Settings) -> LockFile:
    """The file whose first byte is locked by this host's one active sender of the queue."""
    queue = "\0".join((settings.redis_place, settings.prefix, settings.queue_name))
    name = hashlib.sha256(queue.encode()).hexdigest()[:12]
    return shared(runtime_dir(settings.runtime_dir) / f"sender-{name}.lock")


def stand_by(settings: Settings, stop: StopFlag, clock: Clock, abandoned: Callable[[], bool]) -> LockFile | None:
    """Wait until no other sender of this host has the queue; None when we are to stop before that."""
    waiting = False
    while not stop.raised:
        lock_file = sender_lock(settings)
        if lock_file.try_lock(0) and lock_file.is_current():
            return lock_file
        if abandoned():  # the other one delivers what our parent left in the queue
            return None
        if not waiting:
            logger.info("standing by: another sender of this host has the queue")
        waiting = True
        clock.sleep(STANDBY_S)
    return None


def main() -> int:
    """The program; an exit code. Raises what ``service.guarded`` turns into one."""
    parser = service.parser("sender", "Delivers the events in the queue to the data plane.")
    parser.add_argument("--parent", type=int, metavar="PID", help="end after this process, our parent (autostart)")
    arguments = parser.parse_args()
    clock, stop = Clock(), StopFlag()

    def abandoned() -> bool:
        return arguments.parent is not None and os.getppid() != arguments.parent

    settings = service.settings_of(arguments)
    settings.require("data_plane_url", "redis")
    stop.install()
    service.log_to(arguments)
    lock_file = None
    if not settings.is_multi_processor:
        lock_file = stand_by(settings, stop, clock, abandoned)
        if lock_file is None:
            return EXIT_OK
    sender = Sender(Queue(settings, clock), DataPlane(settings), settings, clock, abandoned=abandoned)
    logger.info("serving redis=%s queue=%s", settings.redis_place, settings.queue_name)
    run(sender, stop, clock, shutdown_timeout_s=settings.shutdown_timeout_s, idle=Idle(clock, IDLE_MAX_S))
    if lock_file is not None:
        lock_file.remove()
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(service.guarded("sender", main))
