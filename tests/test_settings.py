"""Settings: three sources, one value, clear errors."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from rudderpipe import Client, settings
from rudderpipe.compat import rudderstack, segment
from rudderpipe.errors import SettingsError
from rudderpipe.observe.secrets_in_text import without_secrets
from rudderpipe.settings import Settings
from rudderpipe.settings.arguments import DropInArguments, QueueArguments, SettingsArguments
from rudderpipe.settings.redis_url import RedisAddress

SECRET = "s3cr3t"


def test_arguments_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """Each source counts only for settings that the sources before it do not give."""
    config = tmp_path / "rudderpipe.toml"
    config.write_text('flush_at = 1\nqueue_name = "file"\ngzip = false\n[redis]\nhost = "example"\nport = 7\n')
    environment = {"RUDDERPIPE_FLUSH_AT": "2", "RUDDERPIPE_QUEUE_NAME": "environment", "RUDDERPIPE_CONFIG": str(config)}

    loaded = settings.load({"flush_at": 3, "prefix": None}, environment=environment)

    assert (loaded.flush_at, loaded.queue_name, loaded.gzip) == (3, "environment", False)
    assert loaded.redis_place == "example:7/0"
    assert loaded.prefix == "rudder"


def test_numbers_switches_and_urls_are_read_from_variables() -> None:
    """Variables hold text, and settings hold typed values."""
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
        ("prefix", {"prefix": "{}"}),
        ("prefix", {"prefix": "}x"}),
    ],
)
def test_the_error_of_a_wrong_setting_names_it_and_hides_the_value(field: str, values: dict[str, Any]) -> None:
    """The value may hold a secret."""
    with pytest.raises(SettingsError) as caught:
        settings.load(values, environment={})

    assert caught.value.field == field
    assert SECRET not in str(caught.value)


TEXTS = [name for name, type_ in Settings.__annotations__.items() if "str" in type_ or "Name" in type_]


@pytest.mark.parametrize("bad", ["\ud800" + SECRET, SECRET + "\0"])
@pytest.mark.parametrize("name", [*TEXTS, "redis.password", "redis.host", "log_level", "when_full"])
def test_text_with_nul_or_without_utf8_is_refused(name: str, bad: str) -> None:
    """No file name, variable or other process could take such text. The error does not show the text."""
    outer, _, inner = name.partition(".")
    given: Any = {inner: bad, **({"host": "h"} if inner != "host" else {})} if inner else bad

    with pytest.raises(SettingsError) as caught:
        settings.load({outer: given}, environment={})
    assert caught.value.field == name
    assert SECRET not in str(caught.value)
    str(caught.value).encode()
    if not inner:
        with pytest.raises(SettingsError) as caught:
            settings.load(environment={f"RUDDERPIPE_{name.upper()}": bad})
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [SECRET, f"redis://{SECRET}", 7.5, -1, [SECRET], {"password": SECRET}, b"s3cr3t"])
@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_no_error_of_a_setting_shows_the_value(name: str, value: Any) -> None:
    """The value is wrong for most settings, and right for some."""
    errors = []
    for given, environment in (({name: value}, {}), ({}, {f"RUDDERPIPE_{name.upper()}": str(value)})):
        try:
            settings.load(given, environment=environment)
        except SettingsError as error:
            errors.append(str(error))
    assert SECRET not in str(errors)


def test_the_error_of_a_wrong_choice_lists_the_choices() -> None:
    """A user then need not look the choices up."""
    with pytest.raises(SettingsError, match="'drop', 'block', 'raise'"):
        settings.load({"when_full": SECRET}, environment={})
    with pytest.raises(SettingsError, match="'debug', 'info', 'warning', 'error', 'none'"):
        settings.load(environment={"RUDDERPIPE_LOG_LEVEL": SECRET})


def test_a_config_path_with_nul_is_a_settings_error() -> None:
    """The operating system's own error would not name the setting."""
    with pytest.raises(SettingsError, match="NUL"):
        settings.load(environment={}, config="a\0b")


def test_the_error_of_a_wrong_variable_or_file_names_it(tmp_path: Path) -> None:
    """The text of a variable is no number. A file is missing, or broken."""
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


def test_settings_show_neither_key_nor_password() -> None:
    """The representation, the pipe's name and the place of Redis appear in logs."""
    loaded = settings.load(
        {"write_key": SECRET, "redis": f"redis://:{SECRET}@h:1/2", "data_plane_url": "http://d"}, environment={}
    )

    assert SECRET not in f"{loaded!r} {loaded.pipe_name} {loaded.redis_place}"


def test_a_pipes_name_depends_on_key_data_plane_and_queue() -> None:
    """Different forms of one Redis address give the same name."""
    base = {"write_key": "k", "data_plane_url": "http://d", "redis": "redis://:pw@h:1/2"}

    def name(**change: Any) -> str:
        return settings.load({**base, **change}, environment={}).pipe_name

    assert (
        name() == name(redis={"host": "h", "port": 1, "db": 2}) == name(flush_at=5) == name(data_plane_url="http://d/")
    )
    assert len({name(), name(write_key="l"), name(redis="redis://h:1/3"), name(queue_name="q"), name(prefix="p")}) == 5
    assert name(pipe="mine") == "mine.queue"
    assert settings.load({"pipe": "mine"}, environment={}).pipe_name == "mine"


@pytest.mark.parametrize(
    ("url", "path", "endpoint"),
    [
        ("http://d", "/v1/batch", "http://d/v1/batch"),
        ("HTTP://D.Example:80/", "/v1/batch", "http://d.example/v1/batch"),
        ("https://d:443", "/v1/batch", "https://d/v1/batch"),
        ("https://d:80", "/v1/batch", "https://d:80/v1/batch"),
        ("http://d/v1/batch", "/v1/batch", "http://d/v1/batch"),
        ("http://d/v1/batch/", "/v1/batch", "http://d/v1/batch"),
        ("http://d/Proxy//", "/v1/batch", "http://d/Proxy/v1/batch"),
        ("http://d/a/v1/batch", "/v1/batch", "http://d/a/v1/batch"),
        ("http://[::1]:8080", "/", "http://[::1]:8080/"),
        ("", "/v1/batch", ""),
    ],
)
def test_a_data_plane_has_one_normal_form(url: str, path: str, endpoint: str) -> None:
    """The endpoint is the address of requests, and tells one data plane from another."""
    loaded = settings.load({"data_plane_url": url, "path": path}, environment={})

    assert loaded.endpoint == loaded.plane_id == endpoint


def test_a_data_plane_may_have_an_id_of_its_own() -> None:
    """One data plane may have an internal and an external address."""
    loaded = settings.load({"data_plane_url": "http://d", "data_plane_id": "production"}, environment={})

    assert (loaded.plane_id, loaded.endpoint) == ("production", "http://d/v1/batch")


@pytest.mark.parametrize("url", ["http://d?token=x", "http://d/#x", "http://d/?"])
def test_a_data_plane_url_with_a_query_is_refused(url: str) -> None:
    """``path`` would become a part of the query, and the query may hold a secret."""
    with pytest.raises(SettingsError, match=r"data_plane_url.*query"):
        settings.load({"data_plane_url": url}, environment={})


def test_every_spelling_of_an_address_gives_one_pipe() -> None:
    """With two rings for one source, events would be out of order, only because one process wrote ``localhost`` and
    another one ``127.0.0.1``."""
    spellings: list[list[dict[str, Any]]] = [
        [{"data_plane_url": url} for url in ("http://d.io", "HTTP://D.io/", "http://d.io:80", "http://d.io/v1/batch/")],
        [{"data_plane_url": "http://d/a"}, {"data_plane_url": "http://d", "path": "/a/v1/batch"}],
        [
            {"redis": redis}
            for redis in (
                "redis://",
                "redis://localhost",
                "redis://LOCALHOST:6379/0",
                "redis://127.0.0.1",
                "redis://u:p@[::1]",
            )
        ],
        [{"redis": "redis://Cache.io"}, {"redis": {"host": "cache.io"}}],
        [{"redis": {"unix_socket_path": path}} for path in ("/run/r.sock", "/run//r.sock", "/run/x/../r.sock")],
        [{"redis": f"redis+sentinel://{nodes}/main"} for nodes in ("a,b", "B:26379,a:26379")],
        [{"redis": f"redis+cluster://{nodes}"} for nodes in ("a,b", "b:6379,A")],
    ]
    names = [
        {
            settings.load({"write_key": "k", "data_plane_url": "http://x", **one}, environment={}).pipe_name
            for one in kind
        }
        for kind in spellings
    ]

    assert [len(kind) for kind in names] == [1] * len(spellings)
    assert len(set.union(*names)) == len(spellings)
    other_path = [{"data_plane_url": "http://d", "path": "/x"}, {"data_plane_url": "http://d/x"}]
    assert len({settings.load(one, environment={}).pipe_name for one in other_path}) == 2


def test_pipe_names_of_earlier_versions_are_known() -> None:
    """Earlier versions hashed the settings as they were given. A ring that they left must be drained."""

    def former(*parts: str) -> str:
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    queue = ("rudderEventsQueue", "rudder")
    for given, parts in (
        ({"data_plane_url": "http://d"}, ("http://d",)),
        ({"data_plane_url": "HTTP://D:80/"}, ("HTTP://D:80",)),
        ({"data_plane_url": "HTTP://D:80/"}, ("http://d",)),
        ({"data_plane_url": "http://d"}, ("http://d:80",)),
        ({"data_plane_url": "http://d/v1/batch"}, ("http://d/v1/batch",)),
        ({"data_plane_url": "http://d", "redis": "redis://"}, ("http://d", "127.0.0.1:6379/0", *queue)),
        ({"data_plane_url": "http://d", "redis": "redis://127.0.0.1"}, ("http://d", "localhost:6379/0", *queue)),
        ({"data_plane_url": "http://d", "redis": "redis://[::1]/2"}, ("http://d", "::1:6379/2", *queue)),
    ):
        names = settings.load({"write_key": "k", **given}, environment={}).pipe_names
        assert former("k", *parts) in names
        assert len(set(names)) == len(names)
    assert settings.load({"pipe": "mine"}, environment={}).pipe_names == ["mine"]


def test_a_socket_is_found_from_any_directory() -> None:
    """Autostarted processes run in the root directory."""
    loaded = settings.load({"redis": {"unix_socket_path": "redis.sock"}}, environment={})

    assert loaded.redis_address.unix_socket_path == str(Path.cwd() / "redis.sock")


def test_settings_travel_to_a_child_process() -> None:
    """The child reads the same settings from its standard input."""
    loaded = settings.load(
        {"write_key": "k", "redis": {"host": "h", "password": "p"}, "autostart": "flusher"}, environment={}
    )

    assert settings.from_json(msgspec.json.encode(loaded)) == loaded


def test_the_error_of_a_missing_setting_names_its_variable() -> None:
    """Some settings have no default."""
    with pytest.raises(SettingsError, match="RUDDERPIPE_WRITE_KEY"):
        Settings().require("write_key")


def test_every_setting_is_documented() -> None:
    """docs/settings.md must have the name of each setting."""
    page = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()

    assert [name for name in Settings.__struct_fields__ if f"`{name}`" not in page] == []


def _plain(name: str, type_: Any) -> set[Any]:
    """Return the members of a type as a set, without bounds."""
    if get_origin(type_) is Annotated:
        return _plain(name, get_args(type_)[0])
    if get_origin(type_) in (Union, UnionType):
        return {member for each in get_args(type_) for member in _plain(name, each)}
    return {type_}


def test_the_typed_keyword_arguments_are_the_settings() -> None:
    """Type checkers must know each new or changed setting. For them ``redis`` may also be mappings."""
    types = get_type_hints(Settings, include_extras=True)
    own = {name: _plain(name, type_) for name, type_ in types.items()}
    typed = {name: _plain(name, type_) for name, type_ in get_type_hints(SettingsArguments).items()}

    assert own.pop("write_key") == own.pop("data_plane_url") == {str}
    own["redis"] |= {Mapping[str, Any], Sequence[str | Mapping[str, Any] | RedisAddress]}
    assert typed == own
    del typed["redis"]
    assert {name: _plain(name, type_) for name, type_ in get_type_hints(QueueArguments).items()} == typed


@pytest.mark.parametrize("drop_in", [rudderstack.Client, segment.Client])
def test_a_drop_in_takes_each_setting_once(drop_in: Any) -> None:
    """A setting is an argument of the drop-in or has our name, because both together would raise ``TypeError``."""
    for name in get_type_hints(SettingsArguments):
        value = {"redis": "redis://h", "pipe": "p", "when_full": "drop"}.get(name, msgspec.structs.asdict(READY)[name])
        try:
            made = drop_in("KEY", "http://127.0.0.1:9", **{name: value})
        except TypeError:
            assert name not in get_type_hints(DropInArguments)
        else:
            assert name in get_type_hints(DropInArguments) or name in signature(drop_in).parameters
            made.client.shutdown(0)


READY = Settings(
    write_key="KEY",
    data_plane_url="http://127.0.0.1:9",
    flush_at=7,
    redis=RedisAddress(host="h", password=SECRET),
    autostart=False,
    max_queue_bytes=1 << 20,
)


@pytest.fixture(name="elsewhere")
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an environment and a file that say something else."""
    config = tmp_path / "rudderpipe.toml"
    config.write_text("flush_interval_ms = 1\n")
    for name, value in {
        "RUDDERPIPE_FLUSH_AT": "9",
        "RUDDERPIPE_PREFIX": "environment",
        "RUDDERPIPE_CONFIG": str(config),
        "HTTP_PROXY": "http://proxy:1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("elsewhere")
def test_a_client_with_ready_settings_reads_no_other_source() -> None:
    """An argument by name replaces a setting, and None replaces nothing."""
    assert Client(settings=READY).settings == READY
    changed = Client("OTHER", settings=READY, flush_at=3, pipe=None, options={"flushInterval": 5}).settings
    assert changed == msgspec.structs.replace(READY, write_key="OTHER", flush_at=3, flush_interval_ms=5)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("more", [{}, {"flush_at": 3}])
def test_a_client_with_ready_settings_pickles(more: dict[str, Any]) -> None:
    """Settings that arguments replaced stay replaced."""
    again = pickle.loads(pickle.dumps(Client(settings=READY, **more)))
    assert again.settings == msgspec.structs.replace(READY, **more)


def test_wrong_ready_settings_are_refused() -> None:
    """The error names the argument and does not show the value. A file together with ready settings is refused too."""
    wrong: Any = {"write_key": SECRET}
    with pytest.raises(SettingsError, match=r"^setting settings: must be a rudderpipe.Settings, not dict$"):
        Client(settings=wrong)
    with pytest.raises(SettingsError, match="setting config: must not be given together with settings"):
        Client(settings=READY, config="x.toml")
    with pytest.raises(SettingsError, match="setting flush_at: "):
        Client(settings=msgspec.structs.replace(READY, flush_at=0))
    with pytest.raises(SettingsError, match="setting data_plane_url: is missing"):
        Client(settings=Settings(write_key="KEY"))


def reason_of(explicit: Mapping[str, Any] | None = None, **environment: str) -> str:
    """Return the text of the error that these settings raise."""
    with pytest.raises(SettingsError) as caught:
        settings.load(explicit, environment={f"RUDDERPIPE_{name}": text for name, text in environment.items()})
    return str(caught.value)


def test_an_unknown_setting_names_the_nearest_one(tmp_path: Path) -> None:
    """Forty names do not help to find a slip of the finger. It may be in an argument, a file or the table of Redis."""
    assert reason_of({"flsh_at": 1}) == "setting flsh_at: is unknown; did you mean flush_at?"
    assert reason_of({"flushAt": 1}) == "setting flushAt: is unknown; did you mean flush_at?"
    assert reason_of({"befor_send": None, "before_sent": 1}) == (
        "setting before_sent: is unknown; did you mean before_send?"
    )
    assert reason_of({"zorg": 1}) == "setting zorg: is unknown; docs/settings.md lists all settings"
    assert reason_of({"redis": {"hots": "h"}}) == "setting redis: has an unknown key hots; did you mean host?"
    config = tmp_path / "rudderpipe.toml"
    config.write_text("data_plan_url = 'x'\n")
    assert reason_of(CONFIG=str(config)) == "setting data_plan_url: is unknown; did you mean data_plane_url?"


def test_a_clients_arguments_are_among_the_names_that_are_suggested() -> None:
    """The arguments that are no settings can be misspelt too."""
    others = set(signature(Client).parameters) - {"options", "settings", "config", "more"}

    assert set(settings.OBJECTS) == others - set(Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (word, value)
        for pair in ("true false", "yes no", "on off", "1 0", "Yes NO")
        for word, value in zip(pair.split(), (True, False), strict=True)
    ],
)
def test_a_switch_is_understood_in_the_words_that_people_use(text: str, value: bool) -> None:
    """``RUDDERPIPE_ENABLE=no`` in a test environment is what a person writes."""
    loaded = settings.load(environment={"RUDDERPIPE_ENABLE": text, "RUDDERPIPE_AUTOSTART": f" {text} "})

    assert (loaded.enable, loaded.autostart) == (value, value)


def test_a_wrong_value_is_answered_with_what_the_value_must_be() -> None:
    """The words are those of a person, not of a type checker, and the value is not repeated."""
    assert reason_of(ENABLE="nope") == "setting enable: must be true or false (also yes or no, on or off, 1 or 0)"
    assert reason_of({"gzip": "no"}) == "setting gzip: must be true or false, not text"
    assert reason_of({"flush_at": "20"}) == "setting flush_at: must be a whole number from 1 to 10000, not text"
    assert reason_of({"flush_at": 2.5}).endswith("from 1 to 10000, not a number with a fraction")
    assert reason_of(FLUSH_AT="9" * 30) == "setting flush_at: must be a whole number from 1 to 10000"
    assert reason_of(TIMEOUT_S="nan") == "setting timeout_s: must be a number above 0, at most 600"
    assert (
        reason_of(MAX_QUEUE_BYTES="1")
        == "setting max_queue_bytes: must be a whole number from 1048576 to 1125899906842624"
    )
    assert reason_of(AUTOSTART="x") == 'setting autostart: must be true, false or "flusher"'
    assert reason_of({"autostart": 2.5}).startswith('setting autostart: must be true, false or "flusher"')
    assert reason_of(PIPE="a/b").startswith("setting pipe: must be text of 1 to 64 letters, digits")
    assert reason_of({"redis": 5}) == "setting redis: must be a URL, a mapping or a list of these, not a number"
    assert reason_of({"redis": {"port": 0}}) == "setting redis.port: must be a whole number from 1 to 65535"
    assert reason_of({"redis": {"sentinels": [5]}}) == (
        "setting redis.sentinels: must be a list of texts, not a number"
    )


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_no_reason_has_the_words_of_a_type_checker(name: str) -> None:
    """``Expected `int | null`, got `str``` tells a person nothing."""
    errors: list[SettingsError] = []
    for given, variables in (({name: b"x"}, {}), ({name: -1.5}, {}), ({name: [[]]}, {}), ({}, {name.upper(): " "})):
        try:
            settings.load(given, environment={f"RUDDERPIPE_{key}": text for key, text in variables.items()})
        except SettingsError as error:
            errors.append(error)

    assert errors
    for refusal in errors:
        assert refusal.field == name
        assert "must " in refusal.reason
        assert not {"Expected", "int", "str", "bool", "float", "null"} & set(re.findall(r"\w+", refusal.reason))
        assert "`" not in refusal.reason


def test_a_misspelt_variable_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ignored, and without the warning nobody would learn why. The value may be a secret and is not shown."""
    monkeypatch.setenv("RUDDERPIPE_WRIT_KEY", SECRET)
    monkeypatch.setenv("RUDDERPIPE_AZORG", SECRET)
    monkeypatch.setattr("rudderpipe.settings.mistakes._warned", set())

    for _ in range(2):
        Client("k", "http://127.0.0.1:9", autostart=False)

    assert sorted(caplog.messages) == [
        "the variable RUDDERPIPE_AZORG is ignored, because no setting has this name",
        "the variable RUDDERPIPE_WRIT_KEY is ignored, because no setting has this name; "
        "did you mean RUDDERPIPE_WRITE_KEY?",
    ]


@pytest.mark.parametrize("lanes", [0, 3, 128, "8", True])
def test_lanes_must_be_a_power_of_two(lanes: Any) -> None:
    """The number of a lane is a part of a number's bits."""
    with pytest.raises(SettingsError, match="lanes: must be a power of two from 1 to 64"):
        settings.load({"lanes": lanes}, environment={})


def test_lanes_are_ignored_where_nothing_keeps_them_apart() -> None:
    """The log says so, and names the reason."""
    queue = {"lanes": 8, "redis": "redis://x"}
    assert settings.load(queue, environment={}).lanes_in_use == 8
    for others, why in (
        ({"redis": None}, "no queue"),
        ({"is_multi_processor": True}, "without order"),
        ({"sync_mode": True}, "no queue"),
    ):
        found = settings.load({**queue, **others}, environment={"RUDDERPIPE_LANES": "4"})
        assert found.lanes_in_use == 1
        assert [line for line in found.ignored if "lanes" in line and why in line]


def test_settings_of_queues_are_named_where_no_queue_is_used() -> None:
    """A forgotten ``redis`` would show nowhere else, because events then go to the data plane directly."""
    given = {"queues": 3, "spill_dir": "/x"}

    assert [line.split()[2] for line in settings.load(given, environment={}).ignored] == ["queues", "spill_dir"]
    assert settings.load({**given, "redis": "redis://x"}, environment={}).ignored == []
    assert settings.load({}, environment={}).ignored == []


SERVERS = [
    "redis://a:1/2 rediss://u:p@b  redis+sentinel://c,d/main",
    ["redis://a:1/2", {"host": "b", "ssl": True, "username": "u", "password": "p"}, "redis+sentinel://c,d/main"],
]


@pytest.mark.parametrize("given", SERVERS, ids=["text", "list"])
def test_redis_may_be_several_servers(given: Any) -> None:
    """The first one is where a process with one queue works. It alone names the pipe, so that a list may grow."""
    loaded = settings.load({"redis": given}, environment={})

    assert [each.place for each in loaded.redis_servers] == ["a:1/2", "b:6379/0", "c,d/main/0"]
    assert loaded.redis_address.host == "a"
    assert loaded.pipe_name == settings.load({"redis": "redis://a:1/2"}, environment={}).pipe_name
    assert settings.from_json(msgspec.json.encode(loaded)) == loaded
    assert settings.load({"flush_at": 3}, base=loaded).redis_servers == loaded.redis_servers


def test_each_queue_has_settings_of_its_own() -> None:
    """Everything that works on one queue then works on this one."""
    loaded = settings.load({"redis": SERVERS[0], "queue_name": "q"}, environment={})

    found = loaded.of_queue("rudder-7", 4)

    assert (found.prefix, found.queue_name, found.redis_address.host) == ("rudder-7", "q", "b")
    assert found.redis_password() == "p"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "setting redis: must not be an empty list"),
        (["redis://a", 5], "setting redis: must be a URL, a mapping or a list of these, not a number"),
        (["redis://a", "redis+cluster://b,c"], "setting redis: must not be a list with a cluster"),
        ("redis://a http://b", "setting redis: address 2 of 2: must start with redis://"),
        ("redis://a redis//b redis://c", "setting redis: address 1 of 2: the path must be"),
        (["redis://a", "redis://b/x"], "setting redis: address 2 of 2: the path must be"),
    ],
)
def test_a_wrong_list_of_servers_is_refused(given: Any, reason: str) -> None:
    """The error names the setting."""
    with pytest.raises(SettingsError) as caught:
        settings.load({"redis": given}, environment={})
    assert str(caught.value).startswith(reason)


def test_a_password_of_any_server_goes_before_the_file(tmp_path: Path) -> None:
    """A file beside a password in the list is a mistake, and a credential of systemd is not used then."""
    with pytest.raises(SettingsError, match="redis_password_file"):
        settings.load({"redis": SERVERS[0], "redis_password_file": "/x"}, environment={})
    (tmp_path / "redis_password").write_text("x")
    found = settings.load({"redis": SERVERS[1]}, environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found.redis_password_file is None


def test_the_secrets_of_all_servers_are_kept_out_of_texts() -> None:
    """A server may repeat what it was sent."""
    servers = ["redis://:first-secret@a", "redis+sentinel://:other@b/main?sentinel_password=third-secret"]
    loaded = settings.load({"redis": servers}, environment={})
    assert without_secrets("x first-secret other third-secret y", loaded) == "x … … … y"
