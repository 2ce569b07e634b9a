"""Text from outside cannot forge a line of a log, speak to a terminal, or look like something else."""

from __future__ import annotations

import ast
import io
import logging
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rudderpipe
from rudderpipe import errors, log_text
from rudderpipe.cli import status
from rudderpipe.delivery import outcome
from rudderpipe.observe import snapshot
from rudderpipe.queue import connection
from rudderpipe.settings import Settings
from rudderpipe.testing import capture

HOUSE = Path(__file__).parent.parent / "rudderpipe"
EVIL = "a\nERROR forged\r\x1b[2J\x9b1m\x00\x85\u2028\u202eb\u2066\ud800"


def is_safe(text: str) -> bool:
    """One line that a terminal shows as it stands, and that has UTF-8."""
    marks = ("\u061c", "\u200e", "\u200f")
    return len(text.splitlines()) <= 1 and not any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        or letter in marks
        for letter in text
    )


@given(st.text(st.characters(codec=None)), st.integers(0, 60))
def test_any_text_becomes_one_safe_line(text: str, shown: int) -> None:
    """It is bounded, made safe once, and left alone where there is nothing to be done."""
    safe = log_text.one_line(text, shown)

    assert is_safe(safe)
    assert len(safe) <= 10 * shown + 1
    assert log_text.one_line(safe, len(safe)) == safe
    if is_safe(text) and "\ufeff" not in text:
        assert safe == (text if len(text) <= shown else text[:shown] + "…")


@pytest.fixture(name="log")
def _log() -> Iterator[io.StringIO]:
    """What the application's handler writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logging.getLogger("rudderpipe").addHandler(handler)
    try:
        yield written
    finally:
        logging.getLogger("rudderpipe").removeHandler(handler)


def test_what_an_event_holds_cannot_forge_a_line(log: io.StringIO) -> None:
    """Keys, names of types and of callbacks are an application's users' words, sooner or later."""
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False)
    odd = type("Odd" + EVIL[:20], (), {})

    for properties in ({EVIL: object()}, {"a": odd()}, {"a": {EVIL: [odd()]}}, {"a": {odd(): 1}}):
        client._intake._transport._log._last_s.clear()  # type: ignore[attr-defined]  # one line a second is not what is tried
        assert client.track("u", "e", properties) is False

    entries = log.getvalue().splitlines()
    assert len(entries) == 4
    assert all(map(is_safe, entries))
    assert "\\nERROR forged" in entries[0]


@pytest.mark.parametrize("name", ["rudderpipe", "rudderpipe.flusher", "rudderpipe.sender"])
def test_every_entry_of_our_loggers_is_safe(log: io.StringIO, name: str) -> None:
    """Whatever its parts are; a traceback keeps its lines, each of them safe."""
    logger = log_text.logger(name)
    logger.warning("job=%s reason=%s", EVIL, b"bytes")
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("ended by an error")

    entries = log.getvalue().split("\n")
    assert entries[0] == f"job={log_text.one_line(EVIL)} reason=b'bytes'"
    assert entries[1] == "ended by an error"
    assert all(is_safe(entry) for entry in entries)
    assert f"ValueError: {log_text.one_line(EVIL)}" in entries


def test_every_logger_of_ours_is_safe() -> None:
    """Loggers come from ``log_text.logger``."""
    asked = {
        path.name
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "getLogger"
    }

    assert asked == {"log_text.py"}


@pytest.mark.parametrize(
    "error",
    [
        errors.EventError(EVIL, EVIL),
        errors.SettingsError(EVIL, EVIL),
        errors.RingUnavailable(EVIL, EVIL),
        errors.DeliveryError(EVIL),
        errors.QueueUnavailable(EVIL, EVIL),
        errors.AnotherDataPlane(EVIL, EVIL, EVIL),
        errors.JobUnreadable(EVIL),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_that_names_something_is_one_safe_line(error: Exception) -> None:
    """Its text, and the facts that a reason is made of."""
    assert is_safe(str(error))
    state = [getattr(error, name, "") for name in ("field", "reason", "name", "address", "owner")]
    assert all(map(is_safe, state))


def test_what_others_answer_is_one_safe_line() -> None:
    """The data plane, a proxy, Redis: none of them is ours."""
    for said in (
        outcome.of_answer(500, EVIL.encode(errors="replace")),
        outcome.of_refusal(302, f"to {EVIL}"),
        outcome.of_failure(EVIL),
        outcome.of_obstacle(EVIL),
    ):
        assert is_safe(said.reason)
    assert is_safe(connection._reason(OSError(EVIL)))


def test_a_setting_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """``status`` shows names as they are given."""
    settings = Settings(write_key="KEY", data_plane_url="http://127.0.0.1:9", pipe="p")
    found = msgspec.structs.replace(snapshot.take(settings), pipe=EVIL, queue_trouble=EVIL)

    print(log_text.lines("\n".join(status.lines_of(found, []))))  # noqa: T201  # as the command

    assert all(map(is_safe, capsys.readouterr().out.split("\n")))


def test_the_operators_page_quotes_the_log() -> None:
    """An operator who searches the page for a line of the log finds it."""
    texts = [
        node.value
        for package in ("flusher", "sender", "service")
        for path in (HOUSE / package).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    page = (HOUSE.parent / "docs" / "operations.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page.partition("## Log lines")[2].partition("\n## ")[0], re.MULTILINE)

    assert len(quoted) > 40
    assert [line for line in quoted if not any(line in text for text in texts)] == []


def test_capture_shows_what_was_refused() -> None:
    """An error in a test is for people too."""
    with capture(strict=True), pytest.raises(errors.EventError) as caught:
        rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False).track("u", "e", {EVIL: object()})

    assert is_safe(str(caught.value))
