"""A terminal that shows one page of text, takes keys, and is given back as it was."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Any

ENTER = "\x1b[?1049h\x1b[?25l"
"""Show another page than that of the shell, without a cursor."""
LEAVE = "\x1b[?25h\x1b[?1049l\x1b[0m"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
OTHERS = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
"""What an arrow or another key without a character sends."""
USUAL = os.terminal_size((80, 24))


class Screen:
    """The terminal of standard input and output, while the ``with`` block runs. Only the main thread may make one.

    The block must call ``wait`` again and again.
    """

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "ascii"
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._before: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._came: set[int] = set()
        self.ended_by: signal.Signals | None = None
        """The signal that ends the program; None while there was none."""

    def __enter__(self) -> Screen:
        self._before = termios.tcgetattr(self._in)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._handlers = {each: signal.signal(each, self._note) for each in (*ENDING, *OTHERS)}
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)

    def _note(self, number: int, _frame: object) -> None:
        self._came.add(number)

    def _enter(self) -> None:
        tty.setcbreak(self._in)
        self._write(ENTER)

    def _leave(self) -> None:
        try:
            self._write(LEAVE)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)
        except (OSError, termios.error):
            pass  # the terminal is gone

    def wake(self) -> None:
        """End a ``wait``. Any thread may call it."""
        try:
            os.write(self._writing, b"\0")
        except BlockingIOError:
            pass  # enough is written to wake it

    def wait(self, seconds: float) -> str:
        """Return the keys that were pressed; none after so long, after ``wake`` and after a signal.

        The program sleeps here while a shell has stopped it. ``q`` is returned when the terminal is gone.
        """
        ready, _, _ = select.select([self._in, self._reading], [], [], seconds)
        if self._reading in ready:
            os.read(self._reading, 4096)
        came, self._came = self._came, set()
        self.ended_by = next((each for each in ENDING if each in came), self.ended_by)
        if self.ended_by is None and signal.SIGTSTP in came:
            self._stop()
        elif signal.SIGCONT in came:  # after Ctrl-Z, or a SIGSTOP; a shell has changed the terminal
            self._enter()
        if self._in not in ready:
            return ""
        try:
            data = os.read(self._in, 256)
        except OSError:
            data = b""
        if not data:
            return "q"
        return _SEQUENCE.sub("", data.decode("ascii", "ignore"))

    def _stop(self) -> None:
        """Stop this program as Ctrl-Z does. The call returns when the shell continues it."""
        self._leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)  # SIGCONT came too, so that the next ``wait`` shows the page again

    @property
    def size(self) -> os.terminal_size:
        """The size of the terminal now."""
        try:
            found = os.get_terminal_size(self._out)
        except OSError:
            return USUAL
        return found if found.columns and found.lines else USUAL

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines from the top; each must fit into a line of the terminal."""
        # Each line is cleared before it is written. After a line of the full width, clearing the rest would remove its
        # last character.
        parts = [f"\x1b[{number};1H\x1b[2K{line}" for number, line in enumerate(lines, 1)]
        self._write("".join(parts) + (f"\x1b[{len(lines) + 1};1H\x1b[J" if len(lines) < self.size.lines else ""))

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._out, data) :]
