"""Dead letters are on a disk, wherever this user may write, and those that stood elsewhere are taken along."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

import pytest

from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.process import state_dir
from rudderpipe.settings import Settings
from tests.test_dead_letters import record
from tests.test_redelivery import killed_at


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return Settings(pipe="p", runtime_dir=str(tmp_path / "run"), spool_dir=str(tmp_path / "disk" / "spool"))


def test_the_directory_is_made_for_its_owner_alone(settings: Settings, tmp_path: Path) -> None:
    """A umask must not change that."""
    before = os.umask(0)
    try:
        assert dead_letters.of(settings).path == tmp_path / "disk" / "spool" / "p.failed"
    finally:
        os.umask(before)
    assert (tmp_path / "disk" / "spool").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("platform", "uid", "state_home", "expected"),
    [
        ("linux", 1000, None, "/home/ann/.local/state/rudderpipe"),
        ("linux", 1000, "/state", "/state/rudderpipe"),
        ("linux", 1000, "state", "/home/ann/.local/state/rudderpipe"),
        ("linux", 0, None, "/var/lib/rudderpipe"),
        ("darwin", 501, None, "/home/ann/Library/Application Support/rudderpipe"),
    ],
)
def test_the_default_is_the_users_state_directory(
    platform: str, uid: int, state_home: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The specification of XDG has relative paths ignored."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setenv("HOME", "/home/ann")
    if state_home is None:
        monkeypatch.delenv("XDG_STATE_HOME")
    else:
        monkeypatch.setenv("XDG_STATE_HOME", state_home)

    assert state_dir.default() == Path(expected)


@pytest.mark.parametrize("trouble", ["a file", "another user's", "no home"])
def test_the_runtime_directory_takes_the_place_of_one_that_cannot_be_used(
    settings: Settings, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says why, and dead letters are kept."""
    monkeypatch.setattr(state_dir, "_warned", set())
    if trouble == "no home":
        settings = Settings(pipe="p", runtime_dir=settings.runtime_dir)
        monkeypatch.setattr(state_dir, "default", lambda: Path("~/.local/state/rudderpipe"))
    elif trouble == "a file":
        (tmp_path / "disk").touch()
    else:
        (tmp_path / "disk" / "spool").mkdir(parents=True, mode=0o777)
        (tmp_path / "disk" / "spool" / "theirs.txt").touch()
        (tmp_path / "disk" / "spool").chmod(0o777)

    letters = dead_letters.of(settings)
    dead_letters.of(settings).keep(record())

    assert letters.path == tmp_path / "run" / "p.failed"
    assert list(letters.records()) == [record()]
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith(
        f"dead letters are kept in the runtime_dir instead of on a disk path={tmp_path / 'run'} error="
    )


def test_dead_letters_in_the_runtime_directory_are_taken_along(settings: Settings, tmp_path: Path) -> None:
    """Those that are sent again stay so. The former directory is gone afterwards."""
    former = DeadLetters(tmp_path / "run" / "p.failed", 1 << 20)
    letters = dead_letters.of(settings)
    former.keep(record(1))
    former.keep(record(2), again=True)

    letters.take_over()
    letters.take_over()

    assert list(letters.records()) == [record(1), record(2)]
    assert len(letters.names_again()) == 1
    assert not former.path.exists()


def test_a_kill_while_dead_letters_are_taken_along_leaves_each_in_one_place(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one would be sent again after the flusher had delivered the other."""
    former = DeadLetters(tmp_path / "run" / "p.failed", 1 << 20)
    letters = dead_letters.of(settings)
    for number in count():
        for sequence in (1, 2):
            former.keep(record(sequence))
        was_killed, _ = killed_at(number, monkeypatch, letters.take_over)
        # A killed process may have moved a file half of the way: then it is in neither place until the next start.
        there = [one.id for store in (former, letters) for one in store.records()]
        assert len(there) == len(set(there))

        letters.take_over()

        assert list(letters.records()) == [record(1), record(2)]
        assert list(former.records()) == []
        assert all(name.endswith((".json", ".part")) for name in os.listdir(letters.path))  # noqa: PTH208  # names alone
        for name in letters.names():
            letters.remove(name)
        if not was_killed:
            break
    assert number > 10
