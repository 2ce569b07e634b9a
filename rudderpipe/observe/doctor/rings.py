"""The checks of the pipe's rings on this host."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from rudderpipe.errors import RingUnavailable
from rudderpipe.log_text import counted
from rudderpipe.observe import host_rings, snapshot, spill_state
from rudderpipe.observe.doctor.check import Result, check, fail, ok, warn, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped
from rudderpipe.process import state_dir
from rudderpipe.ring import layout as at
from rudderpipe.ring import wake_pipe

SURVIVES_S = 30.0
FULL = 0.8
OLD_S = 60.0
NAMED = 5
"""How many rings are named at the most."""
FIXES = {
    "full": "look at checks 8, 16 and 24, then raise max_internal_queue_size and ring_bytes",
    "no_block": "df /dev/shm; raise ring_bytes, or the size of /dev/shm",
    "busy": "look for stopped processes (ps: state T) and for a lack of CPU",
    "too_large": "send smaller events; docs/client.md has the limit",
    "ring": "look at checks 4 and 5; the application's log has the reason",
    "no_slot": "use fewer processes for each pipe",
    "invalid": "the application's log names the argument",
}
"""What to do about refused events, by their reason. Those of other reasons were intended."""


@check(6, "ring", "ring")
def ring(pipe: Examination) -> Result:
    """Check that the pipe's rings can be read, and that all have the layout of this version."""
    try:
        states = pipe.states
    except RingUnavailable as error:
        return fail(error.reason, "restart all processes of the pipe with one version of rudderpipe, the flusher first")
    if not states:
        return ok("none: no process sends events with these settings, or all were delivered and the ring has ended")
    old = [state for state in states if state.layout != at.VERSION]
    found = [
        warn(f"{state.name} has layout {state.layout}, and this version makes {at.VERSION}", _RESTART) for state in old
    ]
    shown = [
        f"{state.name} (layout {state.layout}, interpreter {state.interpreter}, epoch {state.counters.epoch:016x})"
        for state in states
    ]
    return worst(found, ", ".join(shown))


_RESTART = "restart the application; the ring of the earlier version is drained and ends"


@check(7, "lock file", "ring")
def lock_file(pipe: Examination) -> Result:
    """Check that the segment and the lock file of each ring are those that its processes use."""
    found = []
    for each in pipe.rings:
        name = each.view.segment.name
        try:
            inode = each.location.lock_file.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if not each.view.segment.is_linked():
            found.append(warn(f"the segment {name} was removed while it is in use", _USERS))
        elif inode != each.view.words[at.H_LOCK_INODE]:
            said = f"the lock file {each.location.lock_file} was removed or replaced, or runtime_dir differs"
            found.append(warn(said, _USERS))
    if not pipe.rings:
        raise Skipped("this pipe has no ring")
    return worst(found, "the ones that the rings were made with")


_USERS = "restart the processes that use the ring, and find out what removes files there"


@check(12, "refused events", "ring")
def refused(pipe: Examination) -> Result:
    """Check that no event was refused."""
    counts: dict[str, int] = {}
    for state in pipe.states:
        for reason, count in state.counters.refused.items():
            counts[reason] = counts.get(reason, 0) + count
    found = [
        warn(f"{counted(count, 'event')} refused as {reason}", f"{reason}: {FIXES[reason]}")
        for reason, count in counts.items()
        if count and reason in FIXES
    ]
    return worst(found, "none since the ring was made")


@check(13, "room", "ring")
def room(pipe: Examination) -> Result:
    """Check how full the rings are, how old their oldest event is, and how long an outage of the sink fits."""
    found, shown = [], []
    has_spill = pipe.settings.spill_dir is not None and pipe.settings.redis is not None
    for state in pipe.states:
        held, cap = state.counters.in_ring, state.counters.cap
        is_full = held > cap * FULL
        if is_full:
            said = f"{held:,} of {cap:,} events are in {state.name}"
            found.append(warn(said, "look at checks 8, 16 and 24; raise max_internal_queue_size and ring_bytes"))
        allowed_s = OLD_S + pipe.settings.flush_interval_ms / 1000
        if state.oldest_event_age_s is not None and state.oldest_event_age_s > allowed_s:
            said = f"the oldest event has been in {state.name} for {state.oldest_event_age_s:,.0f} s"
            found.append(warn(said, "look at checks 8, 16 and 24"))
        if pipe.rate_per_s >= 1:
            survives_s = (cap - held) / pipe.rate_per_s
            then = ", then the spill" if has_spill else ""
            shown.append(f"{survives_s:,.0f} s of outage at {pipe.rate_per_s:,.0f} events/s{then}")
            if survives_s < SURVIVES_S and not is_full and not has_spill:
                said = f"the ring is full after {survives_s:,.0f} s of outage, at {pipe.rate_per_s:,.0f} events/s"
                found.append(warn(said, "raise max_internal_queue_size, and ring_bytes with it"))
        shown.append(f"{held:,} of {cap:,} events")
    return worst(found, ", ".join(shown) or "no ring")


@check(30, "dead letters", "ring")
def dead_letters(pipe: Examination) -> Result:
    """Check that no batch and no damaged event is among this host's dead letters."""
    directory = Path(pipe.settings.spool_dir) if pipe.settings.spool_dir else state_dir.default()
    if not directory.is_dir() and not pipe.directory.is_dir():
        return ok("none, and no directory for them")  # reading on would make it
    letters = snapshot.dead_letters_of(pipe.settings)
    found = []
    if letters.damaged:
        said = f"{counted(letters.damaged, 'damaged event')} in {letters.path}"
        found.append(warn(said, "look for what writes into /dev/shm, and test the memory of this host"))
    if letters.batches:
        fix = "rudderpipe failed list shows why; rudderpipe failed retry sends them again"
        found.append(warn(f"{counted(letters.batches, 'batch')} failed, with {letters.events:,} events", fix))
    if letters.used_bytes > letters.max_bytes * FULL:
        said = f"the dead letters take {letters.used_bytes:,} of {letters.max_bytes:,} bytes"
        found.append(warn(said, "retry or delete them, or raise max_spool_bytes"))
    return worst(found, f"none in {letters.path}")


@check(31, "wake-up", "ring")
def wake_up(pipe: Examination) -> Result:
    """Check that producers can wake a sleeping flusher through the FIFO beside the lock file."""
    found = []
    served = [state.flusher_pid is not None for state in pipe.states]
    if not any(served):
        raise Skipped("no flusher serves the pipe")
    for each, is_served in zip(pipe.rings, served, strict=True):
        path = wake_pipe.path_of(each.location.lock_file)
        try:
            is_there = stat.S_ISFIFO(path.stat().st_mode)
        except OSError:
            is_there = False
        if is_served and not is_there:
            said = f"{path} is missing, so that events may wait half a second longer"
            found.append(warn(said, "restart the flusher, and find out what removes files there"))
    return worst(found, "the FIFO is there")


@check(35, "spill", "ring")
def spill(pipe: Examination) -> Result:
    """Check that events can wait in spill_dir while Redis is away, that none does, and that the disk has the room."""
    settings = pipe.settings
    if settings.spill_dir is None or settings.redis is None:
        raise Skipped("no spill_dir, events wait in the ring alone")
    path = Path(settings.spill_dir)
    if not path.is_dir():
        if any(state.flusher_pid is not None for state in pipe.states):
            return fail(
                f"{path} does not exist, although a flusher runs", "see its log; restart it with this spill_dir"
            )
        return warn(f"{path} does not exist, the flusher makes it at its start", "start the flusher, or make it")
    found = spill_state.read(settings, [state.counters for state in pipe.states])
    if found is None or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return fail(f"{path} cannot be read and written", "let the flusher's user own it, with mode 0700")
    if found.trouble:
        return fail(found.trouble, "mend the disk, or let the flusher's user own the files; the flusher tries again")
    results = []
    if found.used_bytes:
        said = f"{counted(found.events, 'event')} in {found.path}, {found.used_bytes:,} of {found.max_bytes:,} bytes"
        results.append(warn(said, "bring Redis back (check 16); they go to the queue first then"))
    if found.rings_gone:
        said = f"events of {counted(found.rings_gone, 'gone ring')} in {found.path}"
        results.append(warn(said, "start the pipe's flusher, which sends them first; its log says why they wait"))
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < found.max_bytes - found.used_bytes:
        said = f"the disk of {path} has {free_bytes:,} bytes left, less than max_spill_bytes allows"
        results.append(warn(said, "free some space, or lower max_spill_bytes"))
    return worst(results, f"none in {found.path}")


@check(37, "left rings", "ring")
def left(pipe: Examination) -> Result:
    """Check that no other pipe of this user has left a ring behind that no process uses and that has no event."""
    rows = [row for row in host_rings.of_this_user(pipe.settings.runtime_dir) if row.is_left_over]
    others = [row for row in rows if row.pipe not in pipe.settings.pipe_names]
    if not others:
        return ok("none of another pipe")
    names = ", ".join(row.ring for row in others[:NAMED]) + (", ..." if len(others) > NAMED else "")
    size = sum(row.bytes for row in others) / (1 << 20)
    said = f"{counted(len(others), 'ring')} with {size:.1f} MiB, without process and event: {names}"
    return warn(said, "rudderpipe rings names the command that removes each")
