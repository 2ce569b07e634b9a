"""Text from outside, made safe for one line of a log, of a reason, or of a terminal."""

from __future__ import annotations

import re

_MARKS = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""Unicode's line and paragraph separators, and the marks that turn the direction of writing."""
_unsafe = re.compile(f"[\\x00-\\x1f\\x7f-\\x9f{_MARKS}\ufeff\ud800-\udfff]")


def one_line(text: str, shown: int = 500) -> str:
    """Return the text with each control character escaped, cut after so many characters.

    A line break would begin an entry of its own in a log, ESC would speak to the terminal, a lone surrogate cannot be
    written, and a mark of direction makes a line look like another one.
    """
    cut = text[:shown]
    if not cut.isprintable():  # few texts are not
        cut = _unsafe.sub(_escaped, cut)
    return cut if len(text) <= shown else f"{cut}…"


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return character.encode("unicode_escape").decode()
