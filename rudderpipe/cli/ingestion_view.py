"""What ``rudderpipe send`` shows: its progress, its warnings and its summary."""

from __future__ import annotations

from collections import Counter

from rudderpipe.cli.ingestion_bar import display
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
        self._display = display()
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
        self._display.say(one_line(text, 500))

    def say_rest(self) -> None:
        """Say how many more warnings of each kind there were."""
        for kind, number in self._kinds.items():
            if number > SHOWN_OF_A_KIND:
                more = counted(number - SHOWN_OF_A_KIND, "more line")
                self.say(f"{more} refused: {kind}")

    def show(self, progress: IngestionProgress) -> None:
        """Show the progress."""
        self._display.show(progress)

    def end(self) -> None:
        """Remove the progress."""
        self._display.end()

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
