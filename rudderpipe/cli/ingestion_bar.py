"""The bar of ``rudderpipe send`` on a terminal, drawn by rich, which the extra ``cli`` installs."""

from __future__ import annotations

import sys
from typing import Protocol

import msgspec

from rudderpipe.cli.progress import Progress
from rudderpipe.ingestion.result import IngestionProgress
from rudderpipe.log_text import one_line


class Display(Protocol):
    """What shows the progress on standard error."""

    def show(self, progress: IngestionProgress) -> None:
        """Show the progress."""

    def say(self, text: str) -> None:
        """Print one line above the progress."""

    def end(self) -> None:
        """Remove the progress."""


class Lines:
    """One line that is rewritten on a terminal; elsewhere a new line every ten seconds."""

    def __init__(self) -> None:
        self._line = Progress()

    def show(self, progress: IngestionProgress) -> None:
        """Show the progress as text."""
        self._line.show(text_of(progress))

    def say(self, text: str) -> None:
        """Print one line in the place of the progress."""
        self._line.end()
        print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        self._line.end()


class Bar:
    """A bar with the counts below it. Raises ``ImportError`` without rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start()

    def show(self, progress: IngestionProgress) -> None:
        """Draw the progress."""
        from rich.console import Group
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        parts: list[Padding | Text] = [Text(one_line(text_of(msgspec.structs.replace(progress, obstacle=""))))]
        if progress.size_bytes:
            bar = ProgressBar(total=progress.size_bytes, completed=progress.done_bytes)
            parts.insert(0, Padding(bar, 0))  # which ends the bar's line
        if progress.obstacle:
            parts.append(Text(one_line(progress.obstacle), style="yellow"))
        self._live.update(Group(*parts), refresh=True)

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Remove the bar."""
        self._live.stop()


def display() -> Display:
    """Return the bar on a terminal with rich, and lines elsewhere."""
    if sys.stderr.isatty():
        try:
            return Bar()
        except ImportError:
            pass
    return Lines()


def text_of(progress: IngestionProgress) -> str:
    """Return the progress as one line."""
    parts = [f"{progress.source}: " if progress.source not in ("", "-") else ""]
    rate = progress.read / progress.seconds if progress.seconds else 0.0
    parts.append(f"{progress.read:,} read")
    if progress.size_bytes:
        done = min(1.0, progress.done_bytes / progress.size_bytes)
        parts.append(f", {size_of(progress.done_bytes)} of {size_of(progress.size_bytes)} ({done:.0%})")
    parts.append(f", {rate:,.0f}/s, {progress.accepted:,} accepted, {progress.delivered:,} delivered")
    if progress.failed:
        parts.append(f", {progress.failed:,} failed")
    if progress.refused:
        parts.append(f", {progress.refused:,} refused")
    left_s = seconds_left(progress)
    if left_s:
        parts.append(f", {duration(left_s)} left")
    if progress.obstacle:
        parts.append(f"; {progress.obstacle}")
    return "".join(parts)


def seconds_left(progress: IngestionProgress) -> float | None:
    """Return the seconds until everything is read at this run's average rate; None if that is not known."""
    read_bytes = progress.done_bytes - progress.resumed_bytes
    if not progress.size_bytes or read_bytes <= 0 or progress.seconds < 1:
        return None
    return max(0, progress.size_bytes - progress.done_bytes) * progress.seconds / read_bytes


def duration(seconds: float) -> str:
    """Return a duration such as ``1:02:03`` or ``0:07``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size_of(size_bytes: float) -> str:
    """Return a size such as ``1.5 GB``."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while size_bytes >= 1000 and len(units) > 1:
        size_bytes /= 1000
        del units[0]
    return f"{size_bytes:.0f} {units[0]}" if units[0] == "bytes" else f"{size_bytes:.1f} {units[0]}"
