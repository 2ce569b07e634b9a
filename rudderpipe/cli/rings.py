"""The command ``rudderpipe rings``, which lists the rings on this host, their events and their flushers."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import RingUnavailable, RudderpipeError
from rudderpipe.process import identity, locks, runtime_dir
from rudderpipe.process.clock import Clock, iso_ms
from rudderpipe.ring import counters, location
from rudderpipe.ring import layout as at
from rudderpipe.ring import memory as segment
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.memory import PREFIX
from rudderpipe.ring.ring import RingView
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK

_OWNED = re.compile(rf"{PREFIX}-(\d+)(-.*)?")


class RingRow(msgspec.Struct, frozen=True):
    """One ring, as ``--json`` prints it."""

    ring: str
    pipe: str
    layout: int
    interpreter: int
    user: str
    runtime_dir: str | None
    """None when none of the searched directories has the lock file."""
    events: int
    """Number of events that wait in the ring."""
    bytes: int
    """Memory that the ring takes."""
    producers: int
    flusher: int | None
    """Pid of the process that serves the ring; 0 for a process of another pid namespace, None without a process."""
    since: str | None
    trouble: str | None = None

    @property
    def is_stuck(self) -> bool:
        """True when events wait and no process serves the ring, or when the ring cannot be read."""
        return self.trouble is not None or (self.events > 0 and self.flusher is None)


def rings(runtime_dir: str | None, *, as_json: bool) -> int:
    """Print a line for each ring, for root those of every user. Return an exit code."""
    found = visible(runtime_dir)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        print(log_text.lines("\n".join([*(table(found) or ["no rings"]), *hidden()])))
    return EXIT_FAILED if any(row.is_stuck for row in found) else EXIT_OK


def visible(runtime_dir: str | None) -> list[RingRow]:
    """Return the rings of this user, or for root those of every user."""
    return of_every_user(runtime_dir) if os.geteuid() == 0 else of_this_user(runtime_dir)


def hidden() -> list[str]:
    """Return a line that names the other users with rings; no line for root, or without such users."""
    others = [_name(uid) for uid in sorted(_users() - {os.getuid()})] if os.geteuid() != 0 else []
    return [f"other users have rings that only they and root can see: {', '.join(others)}"] if others else []


def table(found: Sequence[RingRow]) -> list[str]:
    """Return the rows as lines of text, and no line when there are no rows."""
    if not found:
        return []
    lines = [("ring", "user", "events", "memory", "producers", "flusher")]
    notes: list[str] = []
    for row in found:
        flusher = "none" if row.flusher is None else f"pid {row.flusher or 'of another namespace'}"
        if row.since:
            flusher += f" since {row.since}"
        lines.append(
            (row.ring, row.user, f"{row.events:,}", f"{row.bytes / (1 << 20):.1f} MiB", str(row.producers), flusher)
        )
        if row.trouble:
            notes.append(f"{row.ring}: {row.trouble}")
        elif row.is_stuck:
            where = "" if row.runtime_dir else " --runtime-dir DIRECTORY"
            who = "" if row.user == _name(os.geteuid()) else f" as {row.user}"
            command = f"rudderpipe drain {row.pipe}{where}"
            notes.append(f"{row.ring}: events wait and no process serves the ring; run{who}: {command}")
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = [
        "  ".join([cell.ljust(width) for cell, width in zip(line, widths, strict=False)] + [line[5]]) for line in lines
    ]
    return text + notes


def of_every_user(runtime_dir: str | None) -> list[RingRow]:
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


def _of_another_user(uid: int, runtime_dir: str | None) -> list[RingRow]:
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
        return msgspec.json.decode(data, type=list[RingRow])
    except msgspec.DecodeError:
        return [RingRow("?", "?", 0, 0, _name(uid), None, 0, 0, 0, None, None, "the rings of this user cannot be read")]


def _group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:  # a container's user may have no entry
        return uid


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def of_this_user(given: str | None) -> list[RingRow]:
    """Return this user's rings without creating or removing anything, and without waiting."""
    directories = [Path(given)] if given else []
    directories.append(runtime_dir.default())
    seen: dict[str, RingRow] = {}
    for directory in directories:
        for stem in sorted(location.stems(directory)):
            row = _row(stem, directory)
            if row is not None and (stem not in seen or seen[stem].runtime_dir is None):
                seen[stem] = row
    return list(seen.values())


def _row(stem: str, directory: Path) -> RingRow | None:
    """Return one ring's row, or None when only files of an ended ring are left."""
    readings = list(location.readings(directory, stem))
    try:
        memory = segment.attach(readings[0].segment, removes=False)
        if memory is None:
            return None
        where = next((each for each in readings if each.layout == memory.layout.format.version), readings[0])
        return _row_of(where, RingView(memory))
    except (RudderpipeError, OSError) as error:
        reason = error.reason if isinstance(error, RingUnavailable) else str(error)
        return _unreadable(readings[0], reason)


def _row_of(where: RingLocation, ring: RingView) -> RingRow:
    has_lock_file = where.lock_file.exists()
    flusher = ring.flusher()
    if has_lock_file:
        is_served = locks.shared(where.lock_file).is_held(at.LOCK_FLUSHER)
    else:
        is_served = flusher.pid > 0 and not flusher.is_gone()
    pid = 0 if flusher.is_foreign else flusher.pid
    age_s = identity.age_s(pid) if is_served and pid else None
    return RingRow(
        where.stem,
        where.pipe,
        where.layout,
        where.interpreter,
        _name(os.getuid()),
        str(where.directory) if has_lock_file else None,
        counters.read(ring).in_ring,
        ring.segment.size_in_use(),
        len(ring.slots_in_use()),
        pid if is_served else None,
        iso_ms((Clock().time_ms() // 1000 - int(age_s)) * 1000) if age_s is not None else None,
    )


def _unreadable(where: RingLocation, reason: str) -> RingRow:
    return RingRow(
        where.stem, where.pipe, where.layout, where.interpreter, _name(os.getuid()), None, 0, 0, 0, None, None, reason
    )
