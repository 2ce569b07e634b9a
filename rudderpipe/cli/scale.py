"""The command ``rudderpipe scale``, which changes the number of queues while events flow."""

from __future__ import annotations

import sys
from contextlib import closing

from rudderpipe.cli.progress import Progress
from rudderpipe.errors import OlderFlushers, QueueUnavailable
from rudderpipe.log_text import counted, lines
from rudderpipe.process.clock import Clock
from rudderpipe.queue import scaling
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.queue.route import Route
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE
from rudderpipe.settings import Settings

LOOK_S = 1.0
HOSTS_SHOWN = 5
UPGRADE = (
    "Upgrade these flushers, or stop them for good; Redis forgets a ring that was never ended 30 days after its last "
    "event. With --force the change is made all the same: what an older flusher then adds is delivered in no order "
    "beside the new queues, and not at all once the first queue has no sender. If such a flusher is upgraded later, "
    "it may add events a second time."
)


def scale(settings: Settings, count: int, timeout_s: float, *, force: bool = False) -> int:
    """Spread new events over ``count`` queues, and wait until the queues before them are drained; return an exit code.

    With ``force``, flushers of an older version and rings that no flusher serves do not stand in the way.
    Raise ``QueueUnavailable``, with nothing changed, if a queue or a server cannot be reached.
    """
    settings.require("redis")
    clock, progress = Clock(), Progress()
    deadline_s = clock.monotonic_s() + timeout_s
    with closing(QueueSet(settings, clock)) as queues:
        try:
            known = scaling.begin(queues, settings, count, force=force)
        except OlderFlushers as error:
            print(lines(f"rudderpipe: {error}\n{UPGRADE}"), file=sys.stderr)
            return EXIT_FAILED
        places = ", ".join(place.prefix for place in known.current.queues)
        print(lines(f"generation {known.current.number} has {counted(len(known.current.queues), 'queue')}: {places}"))
        if len(known.current.queues) != count:
            print("another command has changed the number of queues at the same time: run this one again")
            return EXIT_UNAVAILABLE
        while True:
            try:
                scaling.seal_past(queues, known)
                known = scaling.retire(queues, settings, known, force=force)
                left = _left(queues, known, force=force)
            except QueueUnavailable as error:
                left = f"a queue cannot be reached or sealed, and until it is, no event may leave a ring: {error}"
            if not left:
                progress.end()
                print("all earlier queues are drained")
                return EXIT_OK
            if clock.monotonic_s() >= deadline_s:
                progress.end()
                print(lines(f"{left}\nthe change goes on by itself; run the command again to see it and to end it"))
                return EXIT_UNAVAILABLE
            progress.show(left)
            clock.sleep(LOOK_S)


def _left(queues: QueueSet, known: Route, *, force: bool) -> str:
    """Return what is left of the earlier generations, in words; empty if there is nothing."""
    texts = []
    for generation in known.living[:-1]:
        found = scaling.remainder(queues, known, generation, force=force)
        hosts = sorted(set(found.rings.values()))
        where = ", ".join(hosts[:HOSTS_SHOWN]) + (", ..." if len(hosts) > HOSTS_SHOWN else "")
        needs = f", {counted(len(found.rings), 'ring')} (on {where}) whose flusher must still look at them"
        rings = needs if found.rings else ""
        failed = f", {counted(found.failed, 'failed job')} to retry or to delete" if found.failed else ""
        own = f"generation {found.generation} ({counted(found.queues, 'queue')})"
        texts.append(f"{own}: {counted(found.jobs, 'job')} left{failed}{rings}")
    return "; ".join(texts)
