"""The two forms of a log, from one template; and what no call of a logger may contain."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe import log_text
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.service import bootstrap, log_format
from rudderpipe.settings import Settings
from tests.fakes import FakeClock

PACKAGE = Path(__file__).parent.parent / "rudderpipe"
SETTINGS = Settings(pipe="shop", redis="redis://u:pa55word@h:1/2", log_format="json")
LEVELS = ("debug", "info", "warning", "error", "exception", "critical", "log", "over")
CONSTANT = ("flusher", "sender", "service", "process", "delivery", "queue", "ring")
"""The packages whose texts are constant, because they log in processes of our own."""
OWN = {"ts", "level", "logger", "msg", "component", "host", "pid", "exc"}
"""The fields that every entry has; ``pipe`` and ``queue`` may be said twice, because they are the same."""
SECRETS = re.compile(
    r"write_?key|password|secret|payload|\bbody\b|\bevent\b|\bmessage\b(?! \+)|\.data\b|properties|traits"
    r"|proxy_url|redis_address|settings\b(?!\.)"
)
"""What must not be given to a logger; ``len(…)`` of it may."""


class Kept(logging.Handler):
    """A handler that keeps each entry in both forms."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = logging.Formatter(log_format.TEXT).format(record)
        line = log_format.of(SETTINGS, "flusher").format(record)
        assert len(line.splitlines()) == 1
        self.entries.append((text, msgspec.json.decode(line)))


@pytest.fixture(name="kept")
def _kept() -> Iterator[Kept]:
    handler, logger = Kept(), log_text.logger("rudderpipe.forms")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def given(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what a call of the logger gave."""
    return {name: value for name, value in entry.items() if name not in OWN - {"msg"} | {"pipe", "queue"}}


def test_both_forms_have_the_same_facts(kept: Kept) -> None:
    """A number stays a number, and the text is the same for each entry of a kind."""
    log = log_text.logger("rudderpipe.forms")
    log.warning("attempt failed job=%s events=%d next_in_s=%g reason=%s", "7", 20, 2.5, "status 503: a b=c")

    ((text, entry),) = kept.entries

    assert text.endswith("WARNING attempt failed job=7 events=20 next_in_s=2.5 reason=status 503: a b=c")
    assert given(entry) == {
        "msg": "attempt failed",
        "job": "7",
        "events": 20,
        "next_in_s": 2.5,
        "reason": "status 503: a b=c",
    }


def test_every_entry_says_whose_it_is(kept: Kept) -> None:
    """A collector of many hosts and pipes tells them apart. No password is in it."""
    log_text.logger("rudderpipe.forms").info("flusher started")

    ((_, entry),) = kept.entries

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["ts"])
    assert {name: entry[name] for name in ("level", "logger", "msg", "component", "pipe", "queue")} == {
        "level": "INFO",
        "logger": "rudderpipe.forms",
        "msg": "flusher started",
        "component": "flusher",
        "pipe": "shop.queue",
        "queue": "rudder:rudderEventsQueue",
    }
    assert isinstance(entry["pid"], int)
    assert entry["host"]
    assert "pa55word" not in str(entry)


def test_a_throttled_line_has_its_count(kept: Kept) -> None:
    """As a number, with the reason that it is throttled by."""
    log = ThrottledLog(log_text.logger("rudderpipe.forms"), FakeClock())
    log.error("queue", "redis cannot be used error=%s", ValueError("100% wrong"), count=3)

    ((text, entry),) = kept.entries

    assert text.endswith("redis cannot be used error=100% wrong reason=queue count=3")
    assert given(entry) == {"msg": "redis cannot be used", "error": "100% wrong", "reason": "queue", "count": 3}


def test_text_from_outside_is_safe_in_both_forms(kept: Kept) -> None:
    """And the facts keep their names."""
    log_text.logger("rudderpipe.forms").warning("refused at 100%% jobs=%d reason=%s", 3, "a\nb\u202e")

    ((text, entry),) = kept.entries

    assert text.endswith("refused at 100% jobs=3 reason=a\\nb\\u202e")
    assert given(entry) == {"msg": "refused at 100%", "jobs": 3, "reason": "a\\nb\\u202e"}


def test_a_traceback_is_one_field(kept: Kept) -> None:
    """The entry stays one line."""
    try:
        raise ValueError("wrong")
    except ValueError:
        log_text.logger("rudderpipe.forms").exception("ended by an unexpected error")

    ((_, entry),) = kept.entries

    assert entry["exc"].startswith("Traceback ")
    assert entry["exc"].endswith("ValueError: wrong")


def test_the_option_beats_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is the default."""
    parser = bootstrap.parser("flusher", "")
    monkeypatch.setenv("RUDDERPIPE_LOG_FORMAT", "json")

    assert bootstrap.settings_of(parser.parse_args([])).log_format == "json"
    assert bootstrap.settings_of(parser.parse_args(["--log-format", "text"])).log_format == "text"
    assert Settings().log_format == "text"
    with pytest.raises(SystemExit):
        parser.parse_args(["--log-format", "xml"])


def calls() -> Iterator[tuple[str, ast.Call, dict[str, list[ast.expr]]]]:
    """Yield each call of a logger: where it is, and what the names of its function were assigned."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for function in functions:
            assigned: dict[str, list[ast.expr]] = {}
            for node in [*tree.body, *ast.walk(function)]:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    assigned.setdefault(node.targets[0].id, []).append(node.value)
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_log(node.func):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node, assigned


def _is_log(function: ast.Attribute) -> bool:
    owner = ast.unparse(function.value)
    return function.attr in LEVELS and bool(re.search(r"(^|\W|_)log(ger)?(\(.*\))?$", owner))


def texts(node: ast.expr, assigned: dict[str, list[ast.expr]]) -> list[str | None]:
    """Return the texts that an expression may be; None stands for one that is not constant."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.Name) and node.id in assigned:
        return [text for value in assigned[node.id] for text in texts(value, assigned)]
    if isinstance(node, ast.IfExp):
        return [*texts(node.body, assigned), *texts(node.orelse, assigned)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = texts(node.left, assigned), texts(node.right, assigned)
        return [None if one is None or two is None else one + two for one in left for two in right]
    return [None]


def template_of(call: ast.Call, assigned: dict[str, list[ast.expr]]) -> tuple[list[str | None], list[ast.expr]]:
    """Return the template of a call, and its values. A throttled log has a reason before it."""
    owner = ast.unparse(call.func.value)  # type: ignore[attr-defined]  # it is an attribute, see ``calls``
    is_throttled = owner.endswith("_log")
    arguments = call.args[is_throttled:]
    return texts(arguments[0], assigned), [*call.args[:is_throttled], *arguments[1:]]


def test_every_text_of_our_own_processes_is_constant() -> None:
    """What happened is the same text in each entry, so that a collector can group by it; all else are facts."""
    found, wrong = 0, []
    for where, call, assigned in calls():
        if where.split("/")[0] not in CONSTANT or where.startswith("process/log_limit.py"):
            continue
        found += 1
        for text in template_of(call, assigned)[0]:
            before = log_format._FIELDS.sub("", text or "%s")
            names = log_format._NAME.findall((text or "").removeprefix(before))
            if text != "%s" and (log_format._CONVERSION.search(before) or set(names) & OWN):
                wrong.append(f"{where}: {text}")

    assert found > 40
    assert wrong == []


def test_no_call_of_a_logger_has_a_secret_or_a_payload() -> None:
    """By the names of what is given to it."""
    wrong = [
        f"{where}: {ast.unparse(value)}"
        for where, call, assigned in calls()
        if not where.startswith("process/log_limit.py")  # which only hands on what it was given
        for value in template_of(call, assigned)[1]
        if SECRETS.search(re.sub(r"len\([^()]*\)", "", ast.unparse(value)))
    ]

    assert wrong == []


def test_the_starts_and_stops_of_our_processes_are_logged() -> None:
    """At a level that is on by default."""
    said = {text for where, call, assigned in calls() for text in template_of(call, assigned)[0] if text}

    for program in ("flusher", "sender"):
        assert any(text.startswith(f"{program} started version=%s") for text in said)
        assert any(text.startswith(f"{program} ended") for text in said)
    arguments = bootstrap.parser("flusher", "").parse_args([])
    logger = logging.getLogger("rudderpipe")
    before, handlers = logger.level, list(logger.handlers)
    try:
        assert bootstrap.log_to(arguments, Settings(), "flusher").level == logging.INFO
    finally:
        logger.setLevel(before)
        logger.handlers[:] = handlers


def test_a_log_that_several_processes_write_is_rotated_once(tmp_path: Path) -> None:
    """A flusher, a manager and its senders share a log. Each would else rotate it, and the earlier lines would go."""
    path = tmp_path / "x.log"
    first, second = (bootstrap.OwnLog(path, maxBytes=1000, backupCount=1) for _ in range(2))
    for number in range(20):
        first.emit(logging.LogRecord("x", logging.INFO, "", 0, f"first {number:060}", None, None))

    second.emit(logging.LogRecord("x", logging.INFO, "", 0, "second", None, None))

    lines = [*(tmp_path / "x.log.1").read_text().split("\n"), *path.read_text().split("\n")]
    assert [line for line in lines if line] == [*(f"first {number:060}" for number in range(20)), "second"]
    for log in (first, second):
        log.close()
