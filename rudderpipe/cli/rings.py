"""The command ``rudderpipe rings``, which lists the rings on this host, their events and their flushers."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from rudderpipe import log_text
from rudderpipe.cli import local_time
from rudderpipe.observe import host_rings
from rudderpipe.observe.host_rings import HostRing
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK


def rings(runtime_dir: str | None, *, as_json: bool) -> int:
    """Print a line for each ring, for root those of every user. Return an exit code."""
    found = host_rings.visible(runtime_dir)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        print(log_text.lines("\n".join([*(table(found) or ["no rings"]), *hidden()])))
    return EXIT_FAILED if any(row.is_stuck for row in found) else EXIT_OK


def hidden() -> list[str]:
    """Return a line that names the other users with rings; no line for root, or without such users."""
    others = host_rings.other_users()
    return [f"other users have rings that only they and root can see: {', '.join(others)}"] if others else []


def table(found: Sequence[HostRing]) -> list[str]:
    """Return the rows as lines of text, and no line when there are no rows."""
    if not found:
        return []
    lines = [("ring", "user", "events", "memory", "producers", "flusher")]
    notes: list[str] = []
    for row in found:
        flusher = "none" if row.flusher is None else f"pid {row.flusher or 'of another namespace'}"
        if row.since:
            flusher += f" since {local_time.shown(local_time.moment_ms(row.since))}"
        lines.append(
            (row.ring, row.user, f"{row.events:,}", f"{row.bytes / (1 << 20):.1f} MiB", str(row.producers), flusher)
        )
        if row.trouble:
            notes.append(f"{row.ring}: {row.trouble}")
        elif row.is_stuck or row.is_left_over:
            where = "" if row.runtime_dir else " --runtime-dir DIRECTORY"
            who = "" if row.user == host_rings.user_name(os.geteuid()) else f" as {row.user}"
            command = f"rudderpipe drain {row.pipe}{where}"
            if row.is_stuck:
                notes.append(f"{row.ring}: events wait and no process serves the ring; run{who}: {command}")
            else:
                notes.append(f"{row.ring}: left over, without process and event; to remove it, run{who}: {command}")
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = [
        "  ".join([cell.ljust(width) for cell, width in zip(line, widths, strict=False)] + [line[5]]) for line in lines
    ]
    return text + notes
