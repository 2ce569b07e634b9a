"""A response that is sent piece by piece, because all of it would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator


class Download:
    """Lines that a client takes one by one. The server calls ``close`` when the client has them all, or has gone.

    The first line is made at once, so that an error comes before the response begins. ``ended`` is called once.
    """

    def __init__(self, lines: Generator[bytes, None, None], ended: Callable[[], object]) -> None:
        self._lines = lines
        self._ended: Callable[[], object] | None = ended
        try:
            self._first = next(lines, b"")
        except BaseException:
            ended()
            raise

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines."""
        yield self._first
        yield from self._lines

    def close(self) -> None:
        """Stop reading, and give back what the download holds."""
        self._lines.close()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
