"""Text from outside cannot forge a line of a log, control a terminal, or look like other text."""

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

PACKAGE = Path(__file__).parent.parent / "rudderpipe"
EVIL = "a\nERROR forged\r\x1b[2J\x9b1m\x00\x85\u2028\u202eb\u2066\ud800"


def is_safe(text: str) -> bool:
    """Return True if the text is one line that a terminal shows as it stands, and that UTF-8 can encode."""
    marks = ("\u061c", "\u200e", "\u200f")
    return len(text.splitlines()) <= 1 and not any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        or letter in marks
        for letter in text
    )


@given(st.text(st.characters(codec=None)), st.integers(0, 60))
def test_any_text_becomes_one_safe_line(text: str, shown: int) -> None:
    """The line is bounded. A safe text stays as it is, and a second pass changes nothing."""
    safe = log_text.one_line(text, shown)

    assert is_safe(safe)
    assert len(safe) <= 10 * shown + 1
    assert log_text.one_line(safe, len(safe)) == safe
    if is_safe(text) and "\ufeff" not in text:
        assert safe == (text if len(text) <= shown else text[:shown] + "…")


@pytest.fixture(name="log")
def _log() -> Iterator[io.StringIO]:
    """Yield what the application's log handler writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logging.getLogger("rudderpipe").addHandler(handler)
    try:
        yield written
    finally:
        logging.getLogger("rudderpipe").removeHandler(handler)


def test_an_event_cannot_forge_a_line(log: io.StringIO) -> None:
    """Users of the application may choose keys, and an application may choose names of types."""
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False)
    odd = type("Odd" + EVIL[:20], (), {})

    for properties in ({EVIL: object()}, {"a": odd()}, {"a": {EVIL: [odd()]}}, {"a": {odd(): 1}}):
        client._intake._transport._log._lines.value.clear()  # type: ignore[attr-defined]  # ends the limit of one line a second
        assert client.track("u", "e", properties) is False

    entries = log.getvalue().splitlines()
    assert len(entries) == 4
    assert all(map(is_safe, entries))
    assert "\\nERROR forged" in entries[0]


@pytest.mark.parametrize("name", ["rudderpipe", "rudderpipe.flusher", "rudderpipe.sender"])
def test_every_entry_of_our_loggers_is_safe(log: io.StringIO, name: str) -> None:
    """All parts of an entry are made safe. A traceback keeps its lines, and each of them is safe."""
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


def test_our_loggers_come_from_log_text() -> None:
    """Only the loggers of ``log_text.logger`` make their entries safe."""
    asked = {
        path.name
        for path in PACKAGE.rglob("*.py")
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
    """Both the error's text and the attributes that name something are safe."""
    assert is_safe(str(error))
    state = [getattr(error, name, "") for name in ("field", "reason", "name", "address", "owner")]
    assert all(map(is_safe, state))


def test_a_foreign_response_is_one_safe_line() -> None:
    """The data plane, a proxy and Redis may answer with any text."""
    for found in (
        outcome.of_answer(500, EVIL.encode(errors="replace")),
        outcome.of_refusal(302, f"to {EVIL}"),
        outcome.of_failure(EVIL),
        outcome.of_obstacle(EVIL),
    ):
        assert is_safe(found.reason)
    assert is_safe(connection._reason(OSError(EVIL)))


def test_a_count_has_its_noun_in_the_right_number() -> None:
    """Zero is plural."""
    assert [log_text.counted(number, "event") for number in (0, 1, 1289)] == ["0 events", "1 event", "1,289 events"]
    assert log_text.counted(2, "failed batch") == "2 failed batches"


def test_a_setting_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """``status`` shows names as they were given."""
    settings = Settings(write_key="KEY", data_plane_url="http://127.0.0.1:9", pipe="p")
    found = msgspec.structs.replace(snapshot.take(settings), pipe=EVIL, redis=EVIL)

    print(log_text.lines("\n".join(status.lines_of(found, settings, []))))  # noqa: T201  # as the command does

    assert all(map(is_safe, capsys.readouterr().out.split("\n")))


def test_the_operators_page_quotes_the_log() -> None:
    """An operator who searches the page for a line of the log must find it."""
    texts = [
        node.value
        for package in ("flusher", "queue", "sender", "service", "settings", "process")
        for path in (PACKAGE / package).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    page = (PACKAGE.parent / "docs" / "operations.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page.partition("## Log lines")[2].partition("\n## ")[0], re.MULTILINE)

    assert len(quoted) > 40
    assert [line for line in quoted if not any(line in text for text in texts)] == []


def test_an_error_of_capture_is_one_safe_line() -> None:
    """People read the errors of their tests in a terminal."""
    with capture(strict=True), pytest.raises(errors.EventError) as caught:
        rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False).track("u", "e", {EVIL: object()})

    assert is_safe(str(caught.value))
