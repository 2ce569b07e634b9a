"""The progress of a command, on standard error."""

from __future__ import annotations

import sys
import time

from rudderpipe.log_text import one_line
from rudderpipe.process.clock import Every


class Progress:
    """One line that is rewritten on a terminal; elsewhere a new line every ten seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._showing = Every(0.1 if self._terminal else 10.0)
        self._showing.restart(time.monotonic())

    def show(self, text: str) -> None:
        """Show the text, at most every 0.1 s on a terminal and every 10 s elsewhere."""
        if self._showing.is_due(time.monotonic()):
            text = one_line(text)
            print(
                f"\r\033[K{text}" if self._terminal else text,
                end="" if self._terminal else "\n",
                file=sys.stderr,
            )
            sys.stderr.flush()

    def end(self) -> None:
        """Clear the line on a terminal."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr)
