"""Write key and password out of files: read again when they change, and never shown."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from rudderpipe import Client
from rudderpipe import settings as settings_module
from rudderpipe.errors import SettingsError
from rudderpipe.settings import Settings, secret_file

SECRET = "s3cr3t-key"


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return written(tmp_path / "key", f"{SECRET}\n".encode())


def written(path: Path, data: bytes, mode: int = 0o400) -> Path:
    """Replace a file in one step, as Kubernetes does."""
    made = path.with_name("new")
    made.write_bytes(data)
    made.chmod(mode)
    made.rename(path)
    return path


def load(environment: dict[str, str] | None = None, **explicit: Any) -> Settings:
    """Return settings from these sources."""
    return settings_module.load({"data_plane_url": "http://d", **explicit}, environment=environment or {})


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_line_break_at_the_end_is_no_part_of_the_secret(file: Path, end: str) -> None:
    """Editors and ``echo`` add one."""
    written(file, f"{SECRET}{end}".encode())

    assert load(write_key_file=str(file)).current_write_key == SECRET


def test_a_changed_file_is_read_again(file: Path) -> None:
    """One that has not changed is not."""
    settings = load(write_key_file=str(file))
    assert settings.current_write_key == SECRET
    written(file, b"another")

    assert settings.current_write_key == "another"
    assert settings.write_key == ""


def test_a_file_that_disappears_keeps_its_secret(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Systemd removes the credentials of a unit that ends before its flusher does."""
    settings = load(write_key_file=str(file))
    assert settings.current_write_key == SECRET
    file.unlink()

    assert [settings.current_write_key for _ in range(3)] == [SECRET] * 3
    written(file, b"")
    assert settings.current_write_key == SECRET

    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        line == "write_key_file cannot be read: No such file or directory; the secret that it held before stays in use"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (f"{SECRET}\nmore".encode(), "must hold one line of printable text"),
        (f"{SECRET}\0".encode(), "must hold one line of printable text"),
        (f"{SECRET}\xff".encode("latin-1"), "is not UTF-8 text"),
        (SECRET.encode() * 1000, "is longer than 4,096 bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_without_its_text(file: Path, data: bytes, reason: str) -> None:
    """An error ends in a log."""
    written(file, data)

    with pytest.raises(SettingsError) as caught:
        load(write_key_file=str(file)).require("write_key")

    assert str(caught.value) == f"setting write_key_file: {reason}"
    assert SECRET not in repr(caught.value.__cause__) + repr(caught.value.__context__)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A directory, and nothing."""
    with pytest.raises(SettingsError, match="write_key_file: is no file"):
        _ = load(write_key_file=str(tmp_path)).current_write_key
    with pytest.raises(SettingsError, match="redis_password_file: cannot be read: No such file or directory"):
        load(redis="redis://h", redis_password_file="/does/not/exist").redis_password()


def test_a_file_that_every_user_can_read_is_warned_about(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each version of the file."""
    file.chmod(0o444)
    settings = load(write_key_file=str(file))

    assert [settings.current_write_key for _ in range(2)] == [SECRET] * 2

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "every user of this host can read the file of write_key_file: chmod 400 it")
    ]


def test_the_pipe_is_named_by_the_path(file: Path, tmp_path: Path) -> None:
    """Not by the key, which may change while processes use the ring."""
    before = load(write_key_file=str(file)).pipe_name
    other = written(tmp_path / "other", f"{SECRET}\n".encode())
    written(file, b"another")

    assert load(write_key_file=str(file)).pipe_name == before
    assert load(write_key_file=os.path.relpath(file)).pipe_name == before
    assert load(write_key_file=str(other)).pipe_name != before
    assert load(write_key=SECRET).pipe_name != before
    assert load(write_key_file=str(file), pipe="p").pipe_name == "p"


def test_a_source_that_takes_precedence_replaces_the_key_or_its_file(file: Path) -> None:
    """A key in the environment does not contradict a file in an argument."""
    of_file = load({"RUDDERPIPE_WRITE_KEY": "k"}, write_key_file=str(file))
    of_argument = load({"RUDDERPIPE_WRITE_KEY_FILE": str(file)}, write_key="k")

    assert (of_file.write_key, of_file.current_write_key) == ("", SECRET)
    assert (of_argument.current_write_key, of_argument.write_key_file) == ("k", None)
    with pytest.raises(SettingsError, match="write_key_file: must not be given together with write_key"):
        load(write_key="k", write_key_file=str(file))
    with pytest.raises(SettingsError, match="redis_password_file: must not be given together with a password"):
        load(redis="redis://:p@h", redis_password_file=str(file))


def test_the_credentials_of_a_systemd_unit_are_found(tmp_path: Path) -> None:
    """Their directory differs by unit, so that the pipe needs a name."""
    written(tmp_path / "write_key", SECRET.encode())
    written(tmp_path / "redis_password", b"pa55word")
    unit = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

    found = load(unit, redis="redis://h", pipe="p")

    assert (found.current_write_key, found.redis_password()) == (SECRET, "pa55word")
    with pytest.raises(SettingsError, match="pipe: must be given with a credential of systemd"):
        load(unit)
    assert load(unit, write_key="k").write_key_file is None
    assert load(unit, write_key="k", redis="redis://:p@h").redis_password() == "p"
    assert load(unit, write_key="k").redis_password_file is None


def test_no_secret_of_a_file_is_shown_or_handed_to_processes(file: Path) -> None:
    """An autostarted process reads the file by itself."""
    settings = load(write_key_file=str(file), redis="redis://h", redis_password_file=str(file))
    assert settings.current_write_key == settings.redis_password() == SECRET

    assert SECRET not in repr(settings) + str(settings.redis_address)
    assert all(SECRET not in str(getattr(settings, name)) for name in Settings.__struct_fields__)


def test_a_client_without_a_readable_key_is_refused() -> None:
    """As one without a key."""
    with pytest.raises(SettingsError, match="write_key_file: cannot be read"):
        Client(data_plane_url="http://d", write_key_file="/does/not/exist", sync_mode=True)


def test_one_look_does_not_read_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at for each commit and each request."""
    found = secret_file.SecretFile("write_key_file", str(file))
    assert found.value() == SECRET
    monkeypatch.setattr(secret_file, "text_of", lambda _data: "read again")

    assert found.value() == SECRET
