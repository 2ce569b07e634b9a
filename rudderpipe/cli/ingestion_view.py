"""What ``rudderpipe send`` shows: its progress, its warnings and its summary."""

from __future__ import annotations

import sys
from collections import Counter

from rudderpipe.cli.progress import Progress
from rudderpipe.ingestion.block import Reject
from rudderpipe.ingestion.engine import Engine
from rudderpipe.ingestion.rejects import KINDS_AT_MOST, OTHERS
from rudderpipe.ingestion.result import Ingested, IngestionProgress
from rudderpipe.ingestion.source import STANDARD_INPUT, Source
from rudderpipe.log_text import counted, one_line

SHOWN_OF_A_KIND = 10


class View:
    """The text on standard error and standard output of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._line = Progress()
        self._kinds: Counter[str] = Counter()

    def warn(self, source: Source, reject: Reject) -> None:
        """Say that a record is refused; only the first ones of each kind."""
        kind = reject.kind
        if kind not in self._kinds and len(self._kinds) >= KINDS_AT_MOST:
            kind = OTHERS
        self._kinds[kind] += 1
        if self._kinds[kind] <= SHOWN_OF_A_KIND:
            name = "" if source.path == STANDARD_INPUT else f"{source.path}: "
            self.say(f"{name}line {reject.number}: {reject.reason}")

    def say(self, text: str) -> None:
        """Print one line above the progress."""
        self._line.end()
        print(one_line(text, 500), file=sys.stderr, flush=True)

    def say_rest(self) -> None:
        """Say how many more warnings of each kind there were."""
        for kind, number in self._kinds.items():
            if number > SHOWN_OF_A_KIND:
                more = counted(number - SHOWN_OF_A_KIND, "more line")
                self.say(f"{more} refused: {kind}")

    def show(self, progress: IngestionProgress) -> None:
        """Show the progress."""
        self._line.show(text_of(progress))

    def end(self) -> None:
        """Clear the line of the progress."""
        self._line.end()

    def summary(self, result: Ingested, engine: Engine, *, dry_run: bool) -> None:
        """Print the summary."""
        if engine.following is not None and engine.following.left_over:
            self.say(f"also delivered: {counted(engine.following.left_over, 'event')} of an earlier run")
        if dry_run:
            print(f"{result.accepted:,} would be sent, {counted(result.refused, 'line')} would be refused")
            for name, kind in sorted(engine.rejects.kinds.items(), key=lambda each: -each[1].count):
                print(f"  {kind.count:,}: {name}; the first one is line {kind.number:,} of {kind.source}")
            return
        rate = result.delivered / result.seconds if result.seconds else 0.0
        already = (
            f"{counted(result.already, 'event')} of an earlier run already in the ring, " if result.already else ""
        )
        print(
            f"{already}{result.accepted:,} accepted, {result.delivered:,} delivered, {result.failed:,} failed, "
            f"{counted(result.refused, 'line')} rejected; {result.seconds:.1f} s, {rate:,.0f} events/s"
        )


def text_of(progress: IngestionProgress) -> str:
    """Return the progress as one line."""
    parts = [f"{progress.source}: " if progress.source not in ("", "-") else ""]
    rate = progress.read / progress.seconds if progress.seconds else 0.0
    parts.append(f"{progress.read:,} read")
    if progress.size_bytes:
        parts.append(f", {min(1.0, progress.done_bytes / progress.size_bytes):.0%}")
    parts.append(f", {rate:,.0f}/s, {progress.accepted:,} accepted, {progress.delivered:,} delivered")
    if progress.failed:
        parts.append(f", {progress.failed:,} failed")
    if progress.refused:
        parts.append(f", {progress.refused:,} refused")
    left_s = seconds_left(progress)
    if left_s is not None:
        parts.append(f", {duration(left_s)} left")
    if progress.obstacle:
        parts.append(f"; {progress.obstacle}")
    return "".join(parts)


def seconds_left(progress: IngestionProgress) -> float | None:
    """Return the seconds until everything is read at the average rate; None if that is not known."""
    if not progress.size_bytes or not progress.done_bytes or progress.seconds < 1:
        return None
    return max(0, progress.size_bytes - progress.done_bytes) * progress.seconds / progress.done_bytes


def duration(seconds: float) -> str:
    """Return a duration such as ``1:02:03`` or ``0:07``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
