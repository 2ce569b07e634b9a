"""Progress of a command, for people."""

from __future__ import annotations

import sys
import time

from rudderpipe.log_text import one_line


class Progress:
    """One line that renews itself on a terminal; a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._every_s = 0.1 if self._terminal else 10.0
        self._next_s = time.monotonic() + self._every_s

    def show(self, text: str) -> None:
        """Show it, unless something was shown just now."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + self._every_s
            text = one_line(text)
            print(
                f"\r\033[K{text}" if self._terminal else text,
                end="" if self._terminal else "\n",
                file=sys.stderr,
            )
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the terminal's line clean."""
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr)
