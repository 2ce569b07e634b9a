"""Text for people: text from outside, made safe for a log, an error or a terminal; and counts with their nouns."""

from __future__ import annotations

import logging
import re
import traceback

SHOWN = 2000
LOG_SHOWN = 4000
_MARKS = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
"""Unicode's line and paragraph separators, marks that change the direction of writing, and invisible marks."""
_unsafe = re.compile(f"[\\x00-\\x1f\\x7f-\\x9f{_MARKS}\ud800-\udfff]")


def one_line(text: str, shown: int = SHOWN) -> str:
    """Return the text with each control character escaped, cut after ``shown`` characters.

    A line break would begin another log entry, ESC would control the terminal, a lone surrogate cannot be written, and
    a direction mark makes one line look like another.
    """
    cut = text[:shown]
    if not cut.isprintable():  # most texts are printable, so the pattern seldom runs
        cut = _unsafe.sub(_escaped, cut)
    return cut if len(text) <= shown else f"{cut}…"


def lines(text: str) -> str:
    """Return the text with each of its lines made safe."""
    return "\n".join(one_line(line, LOG_SHOWN) for line in text.split("\n"))


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: ``1 event``, ``1,289 events``, ``2 batches``."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('ch') else 's'}"


def logger(name: str = "rudderpipe") -> logging.Logger:
    """Return the named logger, with a filter that makes each entry one safe line; a traceback keeps its own lines."""
    found = logging.getLogger(name)
    found.addFilter(_is_safe)
    return found


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _is_safe(record: logging.LogRecord) -> bool:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  # the handler reports what is wrong with the entry
        return True
    safe = one_line(message, LOG_SHOWN)
    if safe != message and isinstance(record.args, tuple):  # else the facts keep their names and types
        record.args = tuple(each if isinstance(each, (int, float)) else one_line(str(each)) for each in record.args)
        message = record.getMessage()
        safe = one_line(message, LOG_SHOWN)
    if safe != message:
        record.msg, record.args = safe, ()
    if record.exc_info and not record.exc_text:
        record.exc_text = "\n".join(map(_of_traceback, traceback.format_exception(*record.exc_info)))
    return True


def _of_traceback(piece: str) -> str:
    """Return a safe piece of a traceback: frames keep their lines, an exception's own text becomes one line."""
    ours = piece.startswith(("  File ", "Traceback ", "\n"))
    return lines(piece.rstrip("\n")) if ours else one_line(piece.rstrip("\n"), LOG_SHOWN)
