"""The rings of this host, their events and their flushers, as any process may see them without entering a ring."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import msgspec

from rudderpipe.errors import RingUnavailable, RudderpipeError
from rudderpipe.process import identity, locks, runtime_dir
from rudderpipe.process.clock import Clock, iso_ms
from rudderpipe.ring import counters, location, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.memory import PREFIX
from rudderpipe.ring.ring import RingView

_OWNED = re.compile(rf"{PREFIX}-(\d+)(-.*)?")


class HostRing(msgspec.Struct, frozen=True):
    """One ring, as ``rudderpipe rings --json`` prints it."""

    ring: str
    pipe: str
    layout: int
    interpreter: int
    user: str
    runtime_dir: str | None = None
    """None when none of the searched directories has the lock file."""
    events: int = 0
    """Number of events that wait in the ring."""
    bytes: int = 0
    """Memory that the ring takes."""
    producers: int = 0
    """Number of living processes that have a slot; also those of another pid namespace."""
    flusher: int | None = None
    """Pid of the process that serves the ring; 0 for a process of another pid namespace, None without a process."""
    since: str | None = None
    trouble: str | None = None
    is_left_over: bool = False
    """True when no process uses the ring and no event waits in it or in its spill, as after a kill of all of them."""

    @property
    def is_stuck(self) -> bool:
        """True when events wait and no process serves the ring, or when the ring cannot be read."""
        return self.trouble is not None or (self.events > 0 and self.flusher is None)


def visible(runtime_dir: str | None) -> list[HostRing]:
    """Return the rings of this user, or for root those of every user."""
    return of_every_user(runtime_dir) if os.geteuid() == 0 else of_this_user(runtime_dir)


def other_users() -> list[str]:
    """Return the names of the users with rings that this process cannot see; none for root."""
    return [user_name(uid) for uid in sorted(_users() - {os.getuid()})] if os.geteuid() != 0 else []


def of_every_user(runtime_dir: str | None) -> list[HostRing]:
    """Return the rings of all users of this host. Only root may call this.

    For each user, a child process takes that user's rights and reads the rings.
    """
    found = of_this_user(runtime_dir)
    for uid in sorted(_users() - {os.getuid()}):
        found += _of_another_user(uid, runtime_dir)
    return found


def _users() -> set[int]:
    users = set()
    for entry in os.scandir(runtime_dir.HOME):
        match = _OWNED.fullmatch(entry.name)
        if match is not None and entry.stat(follow_symlinks=False).st_uid == int(match[1]):
            users.add(int(match[1]))
    return users


def _of_another_user(uid: int, runtime_dir: str | None) -> list[HostRing]:
    """Return the rings of another user, read with that user's rights.

    So the user's files are no danger to root, and root leaves no files among them.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(_group(uid))
            os.setuid(uid)
            with os.fdopen(writing, "wb") as file:
                file.write(msgspec.json.encode(of_this_user(runtime_dir)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    try:
        return msgspec.json.decode(data, type=list[HostRing])
    except msgspec.DecodeError:
        return [HostRing("?", "?", 0, 0, user_name(uid), trouble="the rings of this user cannot be read")]


def _group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:  # a container's user may have no entry
        return uid


def user_name(uid: int) -> str:
    """Return a user's name, or the number of a user without one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def of_this_user(given: str | None) -> list[HostRing]:
    """Return this user's rings without creating or removing anything, and without waiting."""
    seen: dict[str, HostRing] = {}
    for directory in directories(given):
        for stem in sorted(location.stems(directory)):
            row = _row(stem, directory)
            if row is not None and (stem not in seen or seen[stem].runtime_dir is None):
                seen[stem] = row
    return list(seen.values())


def directories(given: str | None) -> list[Path]:
    """Return the directories that may have lock files of this user's rings."""
    return [*([Path(given)] if given else []), runtime_dir.default()]


def opened(stem: str, directory: Path) -> tuple[RingLocation, RingView] | None:
    """Return a ring, mapped for reading; None when only files of an ended ring are left. Raise ``RingUnavailable``."""
    readings = list(location.readings(directory, stem))
    segment = memory.attach(readings[0].segment, removes=False)
    if segment is None:
        return None
    where = next((each for each in readings if each.layout == segment.layout.format.version), readings[0])
    return where, RingView(segment)


def _row(stem: str, directory: Path) -> HostRing | None:
    """Return one ring's row, or None when only files of an ended ring are left."""
    try:
        found = opened(stem, directory)
        return _row_of(*found) if found is not None else None
    except (RudderpipeError, OSError) as error:
        reason = error.reason if isinstance(error, RingUnavailable) else str(error)
        return _unreadable(next(iter(location.readings(directory, stem))), reason)


def _row_of(where: RingLocation, ring: RingView) -> HostRing:
    pid, counted = flusher_pid(where, ring), counters.read(ring)
    producers = sum(not ring.owner(slot).is_gone() for slot in ring.slots_in_use())
    age_s = identity.age_s(pid) if pid else None
    return HostRing(
        where.stem,
        where.pipe,
        where.layout,
        where.interpreter,
        user_name(os.getuid()),
        str(where.directory) if where.lock_file.exists() else None,
        counted.in_ring,
        ring.segment.size_in_use(),
        producers,
        pid,
        iso_ms((Clock().time_ms() // 1000 - int(age_s)) * 1000) if age_s is not None else None,
        is_left_over=pid is None and not producers and not counted.in_ring + counted.spilled,
    )


def flusher_pid(where: RingLocation, ring: RingView, *, tries_lock: bool = True) -> int | None:
    """Return the pid of the process that serves a ring; 0 for a process of another pid namespace, None without one.

    Without ``tries_lock`` the ring's word alone decides. A flusher needs that on its other threads: it may be taking
    the lock at this moment, and trying the lock would give it back.
    """
    flusher = ring.flusher()
    if flusher.pid == os.getpid() and not flusher.is_foreign and not flusher.is_gone():
        return flusher.pid  # trying the lock would give back this process's own
    if tries_lock and where.lock_file.exists():
        is_served = locks.shared(where.lock_file).is_held(at.LOCK_FLUSHER)
    else:
        is_served = flusher.pid > 0 and not flusher.is_gone()
    if not is_served:
        return None
    return 0 if flusher.is_foreign else flusher.pid


def _unreadable(where: RingLocation, reason: str) -> HostRing:
    name = user_name(os.getuid())
    return HostRing(where.stem, where.pipe, where.layout, where.interpreter, name, trouble=reason)
