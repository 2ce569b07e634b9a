"""The command ``rudderpipe drain``, which empties one ring, or all rings of one pipe, and exits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from rudderpipe import log_text
from rudderpipe.cli import rings
from rudderpipe.flusher.counts import FlusherCounts
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.sinks import direct, gone_rings, make_queues_sink, make_sink
from rudderpipe.observe import host_rings
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.ring import counters, flusher_lock, location
from rudderpipe.ring import layout as at
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.ring import Ring, find_at
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_RUNNING, EXIT_UNAVAILABLE
from rudderpipe.settings import Settings
from rudderpipe.settings.mistakes import meant

if TYPE_CHECKING:
    from rudderpipe.flusher.gone_rings import GoneRings
    from rudderpipe.queue.route import QueuePlace

PATIENCE_S = 5.0
"""How long the rings wait for spills of gone rings that do not move."""


class Drained(msgspec.Struct, frozen=True):
    """The JSON object that ``--json`` prints for each ring; ``flusher`` is the process that serves it already."""

    ring: str
    queued: int = 0
    delivered: int = 0
    failed: int = 0
    corrupt: int = 0
    in_ring: int = 0
    spilled: int = 0
    flusher: int | None = None


def drain(
    settings: Settings, pipe: str | None, ring_name: str | None, timeout_s: float, *, as_json: bool = False
) -> int:
    """Move the events of the rings, and of their spills, into the queue or to the data plane. Return an exit code.

    The exit code is 0 when rings and spills are empty afterwards. ``rudderpipe rings`` prints the values that ``pipe``
    and ``ring_name`` may have. Without both, the command drains the pipe of the settings.
    """
    settings.require("write_key", "data_plane_url")
    clock = Clock()
    wanted = _places(settings, pipe, ring_name)
    found = [(where, ring) for where in wanted if (ring := find_at(where)) is not None]
    if not found:
        given = ring_name or pipe or settings.pipe_name
        others = host_rings.visible(settings.runtime_dir)
        near = "" if ring_name else meant(given, [row.pipe for row in others])
        print(log_text.lines(f"rudderpipe: this user has no such ring: {given}{near}"), file=sys.stderr)
        there = [*rings.table(others), *rings.hidden()]
        print(log_text.lines("\n".join(there)), file=sys.stderr)
        return EXIT_FAILED
    deadline_s = clock.monotonic_s() + timeout_s
    gone = gone_rings(settings, clock, FlusherCounts()) if pipe is None and ring_name is None else None
    must_wait = gone.are_ahead if gone is not None else lambda _place: False
    if gone is not None:
        _move(gone, clock, deadline_s, PATIENCE_S)
    code = max(_drain(settings, where, ring, clock, deadline_s, must_wait, as_json=as_json) for where, ring in found)
    if gone is not None and gone.is_busy:
        _move(gone, clock, deadline_s, timeout_s)
        if gone.is_busy:
            print(log_text.lines("rudderpipe: spills of rings that are gone still have events"), file=sys.stderr)
            code = max(code, EXIT_UNAVAILABLE)
    return code


def _move(gone: GoneRings, clock: Clock, deadline_s: float, patience_s: float) -> None:
    """Move what gone rings have left in their spills, until nothing was moved for so many seconds."""
    moved_s = clock.monotonic_s()
    while gone.is_busy and (now_s := clock.monotonic_s()) < min(deadline_s, moved_s + patience_s):
        if gone.work():
            moved_s = now_s
        else:
            clock.sleep(0.01)


def _places(settings: Settings, pipe: str | None, ring_name: str | None) -> list[RingLocation]:
    if ring_name is None and pipe is None:
        return location.of_pipe(settings)
    directory = runtime_dir.ensure(settings.runtime_dir)
    each = [where for stem in location.stems(directory) for where in location.readings(directory, stem)]
    if ring_name is not None:
        each = [where for where in each if ring_name in (where.stem, where.segment)]
    else:
        each = [where for where in each if where.pipe == pipe]
    return _readable(each)


def _readable(places: list[RingLocation]) -> list[RingLocation]:
    """Return the places without those that read a ring's name as another layout than the ring has."""
    listed = {row.ring: row.layout for row in host_rings.of_this_user(str(places[0].directory))} if places else {}
    return [where for where in places if listed.get(where.stem, where.layout) == where.layout]


def _drain(
    settings: Settings,
    where: RingLocation,
    ring: Ring,
    clock: Clock,
    deadline_s: float,
    must_wait: Callable[[QueuePlace], bool],
    *,
    as_json: bool,
) -> int:
    """Act as the flusher of one ring until it is empty or the time is over. Print the outcome; return an exit code."""
    if not flusher_lock.take(ring, clock):
        pid = ring.flusher().pid
        if as_json:
            print(msgspec.json.encode(Drained(where.stem, in_ring=counters.read(ring).in_ring, flusher=pid)).decode())
        else:
            print(f"{where.stem}: pid {pid} already serves the ring")
        return EXIT_RUNNING
    before = counters.read(ring)
    flusher = Flusher(
        ring,
        make_sink(settings, ring, direct(settings, clock), clock, must_wait=must_wait),
        settings,
        clock,
        lingers=True,
        next_sink=lambda: make_queues_sink(settings, ring, clock, must_wait=must_wait),
    )
    try:
        flusher.drain(deadline_s, waits=True)
        after = counters.read(ring)
    finally:
        flusher.close()
        ring.locks.unlock(at.LOCK_FLUSHER)
    counts = {
        "queued": after.queued - after.spilled - before.queued + before.spilled,
        "delivered": after.delivered - before.delivered,
        "failed": after.failed - before.failed,
        "corrupt": after.corrupt - before.corrupt,
    }
    code = EXIT_UNAVAILABLE if after.in_ring or after.spilled else EXIT_OK
    if as_json:
        left_over = Drained(where.stem, **counts, in_ring=after.in_ring, spilled=after.spilled)
        print(msgspec.json.encode(left_over).decode())
        return code
    done = [f"{count:,} {what}" for what, count in counts.items() if count]
    left = {"ring": after.in_ring, "spill": after.spilled}
    done += [f"{log_text.counted(count, 'event')} left in the {place}" for place, count in left.items() if count]
    print(log_text.lines(f"{where.stem}: {'; '.join(done) or 'no events waited'}"))
    return code
