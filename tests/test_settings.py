"""Settings: three sources, one value, clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe import settings
from rudderpipe.errors import SettingsError
from rudderpipe.settings import Settings

SECRET = "s3cr3t"


def test_arguments_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    """Each source is asked only for what those before it did not say."""
    config = tmp_path / "rudderpipe.toml"
    config.write_text('flush_at = 1\nqueue_name = "file"\ngzip = false\n[redis]\nhost = "example"\nport = 7\n')
    environment = {"RUDDERPIPE_FLUSH_AT": "2", "RUDDERPIPE_QUEUE_NAME": "environment", "RUDDERPIPE_CONFIG": str(config)}

    loaded = settings.load({"flush_at": 3, "prefix": None}, environment=environment)

    assert (loaded.flush_at, loaded.queue_name, loaded.gzip) == (3, "environment", False)
    assert loaded.redis_place == "example:7/0"
    assert loaded.prefix == "rudder"


def test_the_environment_holds_text_and_the_settings_hold_values() -> None:
    """Numbers, switches and URLs are read from text."""
    environment = {
        "RUDDERPIPE_GZIP": "false",
        "RUDDERPIPE_TIMEOUT_S": "2.5",
        "RUDDERPIPE_AUTOSTART": "0",
        "RUDDERPIPE_REDIS": "redis://h:1/2",
    }

    loaded = settings.load(environment=environment)

    assert (loaded.gzip, loaded.timeout_s, loaded.autostart, loaded.redis) == (False, 2.5, False, "redis://h:1/2")
    assert settings.load(environment={"RUDDERPIPE_AUTOSTART": "flusher"}).autostart == "flusher"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("flush_at", {"flush_at": "20"}),
        ("flush_at", {"flush_at": 0}),
        ("flsh_at", {"flsh_at": 1}),
        ("data_plane_url", {"data_plane_url": "example.com"}),
        ("data_plane_url", {"data_plane_url": "http://"}),
        ("data_plane_url", {"data_plane_url": f"http://user:{SECRET}@example.com"}),
        ("redis", {"redis": f"http://:{SECRET}@h"}),
        ("redis", {"redis": {"hots": "h", "password": SECRET}}),
        ("redis", {"redis": 5}),
        ("autostart", {"autostart": "sometimes"}),
        ("when_full", {"when_full": "explode"}),
        ("pipe", {"pipe": "a/b"}),
        ("ring_bytes", {"ring_bytes": 10}),
        ("redis.port", {"redis": {"port": 0}}),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not_told(field: str, values: dict[str, Any]) -> None:
    """``SettingsError`` names the setting; no secret is in its text."""
    with pytest.raises(SettingsError) as caught:
        settings.load(values, environment={})

    assert caught.value.field == field
    assert SECRET not in str(caught.value)


def test_a_wrong_variable_or_file_is_named(tmp_path: Path) -> None:
    """Text that is no number, a missing file and a broken one are settings errors."""
    broken = tmp_path / "broken.toml"
    broken.write_text("flush_at = ")
    for field, environment in (
        ("flush_at", {"RUDDERPIPE_FLUSH_AT": "many"}),
        ("config", {"RUDDERPIPE_CONFIG": str(tmp_path / "missing.toml")}),
        ("config", {"RUDDERPIPE_CONFIG": str(broken)}),
    ):
        with pytest.raises(SettingsError) as caught:
            settings.load(environment=environment)
        assert caught.value.field == field


def test_no_secret_is_shown() -> None:
    """Neither the representation nor the pipe's name nor the place of Redis tells key or password."""
    loaded = settings.load(
        {"write_key": SECRET, "redis": f"redis://:{SECRET}@h:1/2", "data_plane_url": "http://d"}, environment={}
    )

    assert SECRET not in f"{loaded!r} {loaded.pipe_name} {loaded.redis_place}"


def test_a_pipe_is_named_by_where_its_events_go() -> None:
    """Same write key, data plane and queue: same pipe, however Redis is written; else another."""
    base = {"write_key": "k", "data_plane_url": "http://d", "redis": "redis://:pw@h:1/2"}

    def name(**change: Any) -> str:
        return settings.load({**base, **change}, environment={}).pipe_name

    assert (
        name() == name(redis={"host": "h", "port": 1, "db": 2}) == name(flush_at=5) == name(data_plane_url="http://d/")
    )
    assert len({name(), name(write_key="l"), name(redis="redis://h:1/3"), name(queue_name="q"), name(prefix="p")}) == 5
    assert name(pipe="mine") == "mine.queue"
    assert settings.load({"pipe": "mine"}, environment={}).pipe_name == "mine"


def test_settings_travel_to_a_child_process() -> None:
    """What is written to a child's standard input is what it reads."""
    loaded = settings.load(
        {"write_key": "k", "redis": {"host": "h", "password": "p"}, "autostart": "flusher"}, environment={}
    )

    assert settings.from_json(msgspec.json.encode(loaded)) == loaded


def test_what_is_missing_is_said() -> None:
    """A setting without a default is asked for by name and by variable."""
    with pytest.raises(SettingsError, match="RUDDERPIPE_WRITE_KEY"):
        Settings().require("write_key")


def test_every_setting_is_documented() -> None:
    """The page lists what there is."""
    page = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()

    assert [name for name in Settings.__struct_fields__ if f"`{name}`" not in page] == []
