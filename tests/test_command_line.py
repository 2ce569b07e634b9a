"""The command line: help, suggestions, and what it says of nonsense."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rudderpipe.cli import local_time, main, options
from rudderpipe.flusher.__main__ import main as flusher
from rudderpipe.ingestion import formats
from rudderpipe.process.clock import Clock
from rudderpipe.sender.__main__ import main as sender
from rudderpipe.service import bootstrap
from rudderpipe.settings import CLIENTS, Settings

SECRET = "s3cr3t"
NUMBERS = ["", " ", "x", SECRET, "-1", "9" * 30, "nan", "1e999", "2024-13-45", "\x1b[2J", "\udcff"]
"""What is no number, and no moment, or one outside of all bounds."""
NOT_TEXT = [f"\udcff{SECRET}"]
FREE = {"--id", "--reason", "--ring", "--pattern", "--checkpoint", "--rejects", "--textfile"}
"""Options of which any text may be right, because another program may have written it, or it names a file."""
BASE = {
    "failed show": ["7"],
    "failed export": ["-"],
    "failed retry": ["--all"],
    "failed delete": ["--all"],
    "data-plane": ["--port", "0"],
}
"""What a command needs besides the option that is tried."""


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command and its parser, the program itself first, in the order of the help."""
    yield name, parser
    for action in parser._actions:  # argparse has no public list of its actions
        if isinstance(action, argparse._SubParsersAction):
            for word, each in action.choices.items():
                yield from commands(each, f"{name} {word}".strip())


PARSER = main.parser()
"""Every command line here is read by this one, because making one takes longer than a test."""
COMMANDS = dict(commands(PARSER))


def valued() -> Iterator[tuple[str, str]]:
    """Yield each command with each of its options that take a value."""
    for name, parser in COMMANDS.items():
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                yield name, action.option_strings[0]


def nonsense_for(option: str) -> list[str]:
    """Return values that are wrong for an option."""
    name = option.removeprefix("--").replace("-", "_")
    if option in FREE:
        return []
    if option in ("--data-plane-url", "--redis", "--proxy-url"):
        return ["x", f"ftp://:{SECRET}@h", "http://", *NOT_TEXT]
    if option == "--config":
        return ["/does/not/exist", "/", "\udcff", sys.executable]
    if Settings.__annotations__.get(name, "").startswith(("str", "Name")) or "pattern" in Settings.__annotations__.get(
        name, ""
    ):
        return NOT_TEXT
    return NUMBERS


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the settings that a command needs, with a secret."""
    monkeypatch.setattr(main, "parser", lambda: PARSER)
    monkeypatch.setenv("RUDDERPIPE_WRITE_KEY", SECRET)
    monkeypatch.setenv("RUDDERPIPE_DATA_PLANE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("RUDDERPIPE_REDIS", f"redis://:{SECRET}@127.0.0.1:1")
    monkeypatch.setenv("RUDDERPIPE_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("RUDDERPIPE_AUTOSTART", "false")


class Said:
    """What a command line printed, and its exit code."""

    def __init__(self, code: object, output: str, error: str) -> None:
        self.code, self.output, self.error = code, output, error


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """Run a command in this process."""
    try:
        code: object = main.main([*arguments])
    except SystemExit as ended:
        code = ended.code
    return Said(code, *capsys.readouterr())


def is_one_clean_line(said: Said) -> bool:
    """Return True if the error is one line that holds no secret, no control character and no traceback."""
    line = said.error.removesuffix("\n")
    return said.output == "" and line.isprintable() and SECRET not in line and "Traceback" not in line and bool(line)


@pytest.mark.parametrize("name", ["", "failed"])
def test_a_command_line_that_ends_early_prints_its_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A person who types the name alone asks what there is; as with pip, kubectl and gh this is no error."""
    said = run(capsys, *name.split())

    assert (said.code, said.error) == (0, "")
    assert said.output == COMMANDS[name].format_help()


def test_the_help_has_the_commands_in_the_order_in_which_a_person_meets_them() -> None:
    """First what shows that it works, then what sends and looks, then what mends."""
    names = [name for name in COMMANDS if name and " " not in name]

    assert names == [
        "demo",
        "data-plane",
        "send",
        "status",
        "top",
        "metrics",
        "web",
        "doctor",
        "failed",
        "rings",
        "drain",
        "queue",
        "scale",
    ]


def test_the_formats_of_send_are_those_of_the_reader() -> None:
    """The command line names them itself, because the reader takes time to load."""
    assert main.FORMATS == formats.FORMATS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence_and_its_default(name: str) -> None:
    """The help is where a person looks first."""
    for action in COMMANDS[name]._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        said = action.help or ""
        assert len(said.split()) > 2, action
        if action.dest not in ("help", "version") and not action.required:
            assert re.search(r"\(default: .+\)$", said), action
            assert "None" not in said


def test_the_help_shows_the_settings_in_groups_with_their_real_defaults() -> None:
    """Forty options in one list are not read. A default that differs from the real one would mislead."""
    text = " ".join(COMMANDS["send"].format_help().split())
    grouped = [name for group in options.GROUPS.values() for name in group]

    assert sorted(grouped) == sorted(set(Settings.__struct_fields__) - set(CLIENTS))
    for title in options.GROUPS:
        assert f"settings: {title}:" in text
    for word in (
        "events in a batch (default: 20)",
        "without a queue (default: none)",
        "compress requests (default: true)",
    ):
        assert word in text
    assert {name for name in grouped if getattr(Settings(), name) in (None, "")} == set(options.DEFAULTS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stauts"], "rudderpipe: there is no such command; did you mean status?; see rudderpipe --help"),
        (["failed", "lst"], "rudderpipe failed: there is no such command; did you mean list?"),
        (
            ["zzz"],
            "; choose demo, data-plane, send, status, top, metrics, web, doctor, failed, rings, drain, queue or scale;",
        ),
        (["send", "--flsh-at", "3"], "rudderpipe send: there is no option --flsh-at; did you mean --flush-at?"),
        (["send", f"--writ-key={SECRET}"], "there is no option --writ-key; did you mean --write-key?"),
        (["status", "--jsn"], "did you mean --json?"),
        (["status", f"-p{SECRET}"], "there is no option -p;"),
        (["status", "--flush"], "there is no option --flush; did you mean --flush-at?"),
        (["status", SECRET], "rudderpipe status: one argument too many;"),
        (["failed", "show"], "rudderpipe failed show: the following arguments are required: ID;"),
        (["send", "--flush-at"], "rudderpipe send: --flush-at: expected one argument;"),
    ],
)
def test_a_slip_of_the_finger_is_answered_with_the_nearest_word(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """One line, exit code 2, and nothing of what was given except the name of an option."""
    found = run(capsys, *arguments)

    assert found.code == 2
    assert said in found.error
    assert is_one_clean_line(found)


@pytest.mark.parametrize(("name", "option"), list(valued()))
def test_nonsense_is_refused_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], name: str, option: str
) -> None:
    """Every option of every command: exit code 2, one line, no traceback, nothing secret."""
    values = nonsense_for(option)
    for value in values if name in ("send", "data-plane") else values[-2:]:  # a setting is read in one place for all
        said = run(capsys, *name.split(), *BASE.get(name, []), f"{option}={value}")

        assert said.code == 2, (value, vars(said))
        assert is_one_clean_line(said), (value, vars(said))


@pytest.mark.parametrize(("name", "program"), [("flusher", flusher), ("sender", sender)])
def test_nonsense_for_a_program_is_refused_before_it_serves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, program: Callable[[], int]
) -> None:
    """The flusher's and the sender's own options."""
    tried = {
        "flusher": {"--claim": NUMBERS, "--flsh": ["x"]},
        "sender": {"--parent": NUMBERS, "--admin": ["", "x", "127.0.0.1:99999", f"{SECRET}:x"], "--amdin": ["x"]},
    }[name]
    for option, values in {**tried, "--config": ["/does/not/exist"], "--log": ["", "/does/not/exist/x"]}.items():
        for value in values:
            monkeypatch.setattr(sys, "argv", [name, f"{option}={value}"])
            try:
                code: object = bootstrap.guarded(name, program)
            except SystemExit as ended:
                code = ended.code
            said = Said(code, *capsys.readouterr())
            assert said.code == 2, (option, value, vars(said))
            assert is_one_clean_line(said), (option, value, vars(said))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"type": ["track"]}', "type: must be one of alias, group, identify, page, screen, track"),
        (b'{"type": {"a": 1}}', "type: must be one of"),
        (b'{"a": "\\ud83d"}', "type: must be one of"),
        (b'"\\ud83d"', "is not a JSON object"),
        (b"[1]", "is not a JSON object"),
        (b"1", "is not a JSON object"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"type": "track"', "is not JSON"),
        (b'{"type": "track", "a": NaN}', "is not JSON"),
        (b'{"type": "track", "a": 1E' + b"9" * 30 + b"}", "has a number whose exponent is too large"),
        (b'{"type": "track", "a": "\\ud83d", "b": 1E' + b"9" * 30 + b"}", "has a number whose exponent is too large"),
        (b'{"a":' * 100_000, "is nested too deeply"),
        (b'{"a": "\\ud83d", "b":' + b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_line_that_is_no_event_is_named_with_a_true_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: bytes, said: str
) -> None:
    """One such line must not end the sending of a file, and the reason must not send a person the wrong way."""
    event = b'{"type": "track", "userId": "u", "event": "\xc3\xa9", "properties": {"n": 1' + b"0" * 4000 + b"}}"
    path = tmp_path / "events"
    path.write_bytes(b"\n".join((event, line, b" ", event)))

    found = run(capsys, "send", str(path), "--dry-run")

    assert (found.code, found.output.partition("\n")[0]) == (1, "2 would be sent, 1 line would be refused")
    assert f"line 2: {said}" in found.error


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "UTC", "America/St_Johns"])
def test_moments_are_read_and_shown_in_the_zone_of_the_reader(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """The zone is named, and a date without a zone is in it. So what is shown can be given back."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        ms = local_time.moment_ms("2026-11-24T08:00Z")
        shown = local_time.shown(ms)
        assert ms == 1_795_507_200_000
        assert (
            shown
            == {
                "Asia/Kolkata": "2026-11-24 13:30:00 IST",
                "UTC": "2026-11-24 08:00:00 UTC",
                "America/St_Johns": "2026-11-24 04:30:00 NST",
            }[zone]
        )
        assert local_time.moment_ms(shown.rpartition(" ")[0]) == ms
        assert local_time.moment_ms("2026-11-24T08:00+02:00") == ms - 7_200_000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_time_ago_counts_from_now() -> None:
    """As in ``--since 2h``."""
    now_ms = Clock().time_ms()

    assert 0 <= now_ms - 7_200_000 - local_time.moment_ms("2h") + 1000 <= 2000
