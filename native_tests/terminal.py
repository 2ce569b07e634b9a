"""A pseudo terminal in which a test runs a program, and what a person would see in it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import pyte

from native_tests.processes import wait_until


class Terminal:
    """A terminal with a program in a session of its own."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], columns: int = 80, lines: int = 24
    ) -> None:
        self.page = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.page)
        self._controlling, self._inside = pty.openpty()
        self.resize(columns, lines)
        self._before = termios.tcgetattr(self._inside)
        self.written = b""
        """Everything that the program wrote."""
        kept = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command,
            stdin=self._inside,
            stdout=self._inside,
            stderr=self._inside,
            env={"TERM": "xterm-256color", **kept},
            preexec_fn=self._begin_session,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _begin_session(self) -> None:
        os.setsid()
        fcntl.ioctl(self._inside, termios.TIOCSCTTY, 0)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._controlling, 65_536)
            except OSError:  # the last process has closed the terminal
                return
            self.written += data
            self._stream.feed(data)

    @property
    def text(self) -> str:
        """What is shown now."""
        return "\n".join(line.rstrip() for line in self.page.display)

    def shows(self, *texts: str) -> None:
        """Wait until all of these are shown."""
        wait_until(lambda: all(text in self.text for text in texts), describe=lambda: self.text)

    def shows_not(self, text: str) -> None:
        """Wait until this is not shown."""
        wait_until(lambda: text not in self.text, describe=lambda: self.text)

    def colour_of(self, text: str) -> str:
        """Return the colour of the first character of a text that is shown."""
        row, line = next((row, line) for row, line in enumerate(self.page.display) if text in line)
        return str(self.page.buffer[row][line.index(text)].fg)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._controlling, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, as a window manager does."""
        self.page.resize(lines, columns)
        fcntl.ioctl(self._controlling, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def ended(self) -> int:
        """Wait for the program's end, and return its exit code."""
        return self.process.wait(30)

    @property
    def mode(self) -> list[Any]:
        """The terminal's mode, which a full-screen program changes."""
        return termios.tcgetattr(self._inside)

    def is_as_before(self) -> bool:
        """Return True if the terminal is as the program found it: its mode, its page and its cursor."""
        page = self.written.count(b"\x1b[?1049h"), self.written.count(b"\x1b[?25l")
        left = self.written.count(b"\x1b[?1049l"), self.written.count(b"\x1b[?25h")
        return page == left and page[0] > 0 and self.mode == self._before

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._inside)
        self._thread.join()
        os.close(self._controlling)
