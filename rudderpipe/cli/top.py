"""The command ``rudderpipe top``, which shows the flow of a pipe, or of every ring of this user, once a second."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from rudderpipe.cli import status, top_view
from rudderpipe.cli.screen import Screen
from rudderpipe.cli.top_view import KEYS, Panel, Shown
from rudderpipe.errors import RudderpipeError
from rudderpipe.observe.cached import PATIENCE_S
from rudderpipe.observe.failed_store import failed_jobs
from rudderpipe.observe.flow import Watch
from rudderpipe.observe.host_flow import HostWatch, RingRow
from rudderpipe.observe.rates import RateMeter
from rudderpipe.observe.reader import Reader
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import FailedJob, Selection
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

EVERY_S = 1.0
REDIS_KEPT_S = 0.9
PATIENCE_ONCE_S = 15.0
"""How long ``--once`` waits for Redis: longer than for a connection and a response."""
FAILED_SHOWN = 100


class Source(Protocol):
    """What is shown. Its ``read`` is called by one thread."""

    panels: Sequence[Panel]

    def read(self, panel: Panel | None) -> None:
        """Read everything anew, and what the panel needs."""

    def lines(self, size: os.terminal_size, panel: Panel | None, *, is_ascii: bool) -> list[Text]:
        """Return the text of the last reading."""

    def code(self) -> int:
        """Return the exit code that the last reading means."""


class OnePipe:
    """The pipe of the settings."""

    panels: Sequence[Panel] = tuple(KEYS.values())

    def __init__(self, settings: Settings, patience_s: float) -> None:
        """``patience_s`` is how long a reading may wait for Redis."""
        self._settings = settings
        self._reader = Reader(settings, patience_s=patience_s, redis_kept_s=REDIS_KEPT_S)
        self._watch = Watch(settings, self._reader)
        self._meter = RateMeter()
        self._shown: Shown | None = None

    def read(self, panel: Panel | None) -> None:
        """Read ring and queue, and the newest failed jobs for their panel."""
        view = self._reader.read()
        flow = self._watch.of(view)
        jobs: list[FailedJob] = []
        trouble = ""
        if panel == "failed":
            try:
                jobs, trouble = self._failed()
            except (RudderpipeError, OSError) as error:
                trouble = str(error)
        self._shown = Shown(view, flow, self._meter.note(flow), jobs, trouble)

    def _failed(self) -> tuple[list[FailedJob], str]:
        """Return the newest failed jobs, the newest first, and why those of some queues are missing.

        Dead letters only come oldest first.
        """
        with failed_jobs(self._settings) as store:
            if self._settings.redis is None:
                return list(store.find(Selection()))[: -FAILED_SHOWN - 1 : -1], ""
            jobs = list(islice(store.find(Selection(), newest_first=True), FAILED_SHOWN))
            return jobs, "; ".join(f"{prefix}: {reason}" for prefix, reason in store.away.items())

    def lines(self, size: os.terminal_size, panel: Panel | None, *, is_ascii: bool) -> list[Text]:
        """Return the flow and the panel."""
        return top_view.of_pipe(self._shown, size, panel, is_ascii=is_ascii) if self._shown is not None else []

    def code(self) -> int:
        """Return the exit code of ``rudderpipe status``."""
        assert self._shown is not None
        return status.code_of(self._shown.view.snapshot, self._settings)


class EveryRing:
    """Every ring of this user on this host, a line each."""

    panels: Sequence[Panel] = ()

    def __init__(self, settings: Settings) -> None:
        self._watch = HostWatch(settings.runtime_dir, Clock())
        self._rows: list[RingRow] = []

    def read(self, panel: Panel | None) -> None:  # noqa: ARG002  # there is no panel
        """Read the rings."""
        self._rows = self._watch.read()

    def lines(self, size: os.terminal_size, panel: Panel | None, *, is_ascii: bool) -> list[Text]:  # noqa: ARG002  # as above
        """Return a line for each ring."""
        return top_view.of_rings(self._rows, size.columns)

    def code(self) -> int:
        """Return the exit code of ``rudderpipe rings``."""
        return EXIT_FAILED if any(row.is_stuck for row in self._rows) else EXIT_OK


def top(settings: Settings, *, once: bool, every_ring: bool) -> int:
    """Show the flow until a key ends it; once if asked, or without a terminal. Return an exit code."""
    from rich.console import Console  # imported here, because the import of ``top_view`` says what is wrong without it

    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    is_live = is_terminal and not once
    patience_s = PATIENCE_S if is_live else PATIENCE_ONCE_S
    source: Source = EveryRing(settings) if every_ring else OnePipe(settings, patience_s)
    console = Console(highlight=False, markup=False, emoji=False)
    if is_live:
        return Live(source, console).run()
    return _print(source, console)


def _print(source: Source, console: Console) -> int:
    """Print the flow once, after two readings, because a rate needs two."""
    source.read(None)
    Clock().sleep(EVERY_S)
    source.read(None)
    width = console.width if console.is_terminal else top_view.ENDLESS
    size = os.terminal_size((width, top_view.ENDLESS))
    for line in source.lines(size, None, is_ascii=is_ascii(sys.stdout.encoding)):
        text = console_text(console, line, width) if console.is_terminal else line.plain
        print(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding).rstrip())
    return source.code()


def is_ascii(encoding: str | None) -> bool:
    """Return True if a terminal of this encoding may not show more than ASCII."""
    return not (encoding or "").lower().replace("-", "").startswith("utf8")


def console_text(console: Console, line: Text, width: int) -> str:
    """Return a line with the escape codes of its colours, cut to the width."""
    with console.capture() as captured:
        console.print(line, end="", no_wrap=True, overflow="crop", crop=True, width=width)
    return captured.get()


class Live:
    """The page on a terminal. A thread of its own reads, so that a key has an effect at once whatever hangs."""

    def __init__(self, source: Source, console: Console) -> None:
        self._source = source
        self._console = console
        self._clock = Clock()
        self._is_ascii = is_ascii(sys.stdout.encoding)
        self._panel: Panel | None = None
        self._asked = threading.Event()
        self._error: BaseException | None = None
        self._trouble = "reading …" if not self._is_ascii else "reading ..."
        self._read_at_s = self._clock.monotonic_s()

    def run(self) -> int:
        """Show the page until ``q`` or a signal. Return an exit code, or end by the signal."""
        screen = Screen()
        threading.Thread(target=self._read, args=(screen.wake,), name="rudderpipe-top", daemon=True).start()
        with screen:
            while screen.ended_by is None:
                if self._error is not None:
                    raise self._error
                self._draw(screen)
                keys = screen.wait(EVERY_S)
                if "q" in keys.lower():
                    break
                self._press(keys.lower())
        if screen.ended_by not in (None, signal.SIGINT):
            signal.signal(screen.ended_by, signal.SIG_DFL)
            os.kill(os.getpid(), screen.ended_by)
        return EXIT_OK

    def _press(self, keys: str) -> None:
        for key in keys:
            panel = KEYS.get(key)
            if panel in self._source.panels:
                self._panel = None if panel == self._panel else panel
                self._asked.set()

    def _draw(self, screen: Screen) -> None:
        size = screen.size
        lines = self._source.lines(size, self._panel, is_ascii=self._is_ascii)
        late_s = self._clock.monotonic_s() - self._read_at_s
        trouble = self._trouble or (f"the numbers are {late_s:.0f} s old" if late_s > 3 * EVERY_S else "")
        cut = len(lines) - (size.lines - 1)
        if cut > 0 and not trouble:
            trouble = f"{cut:,} more lines need a higher terminal"
        footer = top_view.footer(self._source.panels, self._panel, trouble)
        page = [*lines[: max(0, size.lines - 1)], *[top_view.EMPTY] * (size.lines - 1 - len(lines)), footer]
        screen.draw([console_text(self._console, line, size.columns) for line in page[-size.lines :]])

    def _read(self, wake: Callable[[], Any]) -> None:
        try:
            while True:
                self._asked.clear()
                try:
                    self._source.read(self._panel)
                    self._trouble, self._read_at_s = "", self._clock.monotonic_s()
                except (RudderpipeError, OSError) as error:
                    self._trouble = str(error)
                wake()
                self._asked.wait(EVERY_S)
        except BaseException as error:  # noqa: BLE001  # the main thread raises it, once the terminal is given back
            self._error = error
            wake()
