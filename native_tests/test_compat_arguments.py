"""The arguments, settings, attributes and names of the drop-ins beside those of the real SDKs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import rudderstack.analytics as real_rudderstack
import rudderstack.analytics.request as rudderstack_request
import segment.analytics as real_segment
import segment.analytics.request as segment_request

from native_tests.faulty_plane import FaultyPlane
from native_tests.processes import Processes, wait_until
from rudderpipe.compat import arguments, rudderstack, segment
from rudderpipe.errors import SettingsError
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.settings import Settings
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour

SDKS: dict[str, tuple[Any, Any]] = {"rudderstack": (real_rudderstack, rudderstack), "segment": (real_segment, segment)}
DEFAULTS = {
    "max_queue_size": ("max_internal_queue_size", 10_000),
    "max_retries": ("max_attempts", 11),
    "upload_size": ("flush_at", 100),
    "upload_interval": ("flush_interval_ms", 500),
    "timeout": ("timeout_s", 15.0),
}
GIVEN: dict[str, list[tuple[Any, Any]]] = {
    "max_queue_size": [(0, 100_000_000), (-1, 100_000_000), (10**20, 100_000_000), ("7", 7), (7.0, 7), (0.5, 1)],
    "max_retries": [(0, 1), ("3", 4), (10**9, 1_000_000), (math.inf, 1_000_000)],
    "upload_size": [(0, 1), (-5, 1), (50, 50), ("50", 50), (10_001, 10_000), (10**9, 10_000)],
    "upload_interval": [(0, 0), (-1, 0), ("2", 2000), (1e9, 86_400_000), (0.0001, 1)],
    "timeout": [
        *((None, 600.0), (1e9, 600.0), ("7.5", 7.5), (0, 15.0), (-1, 15.0)),
        *(((3, 4), 4.0), ((3, None), 600.0), ((1,), 15.0), ((1, 2, 3), 15.0)),
    ],
}
"""Values that both SDKs take, and what each becomes in rudderpipe's setting."""
NO_NUMBERS = [object(), "many", [], None, math.nan, b"", 10**400]
ENDLESS = {"rudderstack": 1_000_000, "segment": 1}
"""The attempts of ``max_retries=-1``: one SDK retries forever, the other never."""
PROXIES: list[tuple[Any, str | None]] = [
    (None, None),
    ("", None),
    ({}, None),
    ({"http": ""}, ""),
    ({"http": None}, ""),
    ({"http": None, "all": "proxy:1"}, "http://proxy:1"),
    ({"https": "proxy:1"}, None),
    ("proxy:1", "http://proxy:1"),
    ({"http": "http://proxy:1"}, "http://proxy:1"),
    ({"http://plane.invalid": "a:1", "http": "b:1", "all": "c:1"}, "http://a:1"),
    ("socks5://proxy:1", ""),
    ({"http": "http://"}, ""),
    (5, ""),
    ({"http": 5}, ""),
]
REFUSED = [
    {"write_key": None},
    {"write_key": 5},
    {"thread": "4"},
    {"thread": 1.5},
    {"unknown": 1},
    {"flush_at": 5, "upload_siz": 3},
]
REFUSED_BY_SEGMENT = [
    {"max_total_backoff_duration": None},
    {"max_total_backoff_duration": -1},
    {"max_rate_limit_duration": None},
    {"max_rate_limit_duration": -1},
    {"max_rate_limit_duration": "long"},
]
TAKEN: list[dict[str, Any]] = [
    {"debug": 1},
    {"send": 0},
    {"gzip": None},
    {"on_error": False},
    {"on_error": 5},
    {"thread": 0},
    {"thread": -1},
    {"host": ""},
    {"host": "no URL"},
    {"host": 5},
    {"host": "http://[::1"},
    {"write_key": ""},
    {"write_key": "a\0b"},
]
OURS = set(Settings.__struct_fields__) - {"write_key", "gzip", "sync_mode", "path", "redis", "pipe", "enable", "strict"}
"""The settings whose names no message about an argument may have."""


@pytest.fixture(name="without_environment", autouse=True)
def _without_environment(monkeypatch: pytest.MonkeyPatch, processes: Processes) -> Iterator[None]:
    """Make every client use this test's pipe, and forget which warnings were logged before."""
    for name in ("pipe", "runtime_dir", "linger_s"):
        monkeypatch.setenv(f"RUDDERPIPE_{name.upper()}", str(processes.explicit[name]))
    monkeypatch.setattr(arguments, "_log", ThrottledLog(logging.getLogger("rudderpipe"), Clock()))
    monkeypatch.setattr(rudderstack, "default_client", None)
    monkeypatch.setattr(segment, "default_client", None)
    loggers = [logging.getLogger(name) for name in ("rudderpipe", *SDKS)]
    before = [(each, each.level, list(each.handlers)) for each in loggers]
    yield
    for each, level, handlers in before:  # debug=True changes them
        each.setLevel(level)
        each.handlers[:] = handlers
    rudderstack_request._session.close()  # noqa: SLF001  # the SDK has no other way to close its connection
    segment_request._session.close()  # noqa: SLF001  # as above


def raised_by(make: Any, **given: Any) -> type[BaseException] | None:
    """Return the type of the exception with which a client refuses its arguments."""
    try:
        make(**{"write_key": "KEY", "host": "http://127.0.0.1:9", "send": False, **given})
    except Exception as error:  # noqa: BLE001  # the question is which one
        return type(error)
    return None


@pytest.mark.parametrize("sdk", SDKS)
def test_what_the_original_takes_is_taken_and_what_it_refuses_raises_the_same(
    sdk: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No message about an argument has the name of a setting of rudderpipe."""
    real, ours = SDKS[sdk]
    tables: list[Any] = [[{name: value} for value, _ in table] for name, table in GIVEN.items()]
    tables += [[{name: value} for value in NO_NUMBERS] for name in GIVEN]
    tables += [TAKEN, REFUSED, [{"proxies": given} for given, _ in PROXIES]]
    tables += [REFUSED_BY_SEGMENT] if sdk == "segment" else []
    refused = 0
    for given in [each for table in tables for each in table]:
        expected = raised_by(real.Client, **given)
        got = raised_by(ours.Client, **given)
        assert (got is None) == (expected is None), (given, expected, got)
        assert expected is None or issubclass(got or object, expected), (given, expected, got)
        refused += expected is not None

    assert refused == len(REFUSED) + (len(REFUSED_BY_SEGMENT) if sdk == "segment" else 0)
    assert not [name for name in OURS if name in caplog.text]


@pytest.mark.parametrize("sdk", SDKS)
def test_an_argument_is_the_nearest_setting(sdk: str) -> None:
    """What is no number is the default."""
    ours = SDKS[sdk][1]
    for name, (setting, default) in DEFAULTS.items():
        wrong = [(value, default) for value in NO_NUMBERS if (name, value) != ("timeout", None)]
        for value, expected in [*GIVEN[name], *wrong]:
            client = ours.Client("KEY", "http://127.0.0.1:9", **{name: value})
            assert getattr(client.client.settings, setting) == expected, (name, value)
            client.shutdown()
    client = ours.Client("KEY", "http://127.0.0.1:9", max_retries=-1)
    assert client.client.settings.max_attempts == ENDLESS[sdk]
    client.shutdown()


def test_proxies_are_those_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """None leaves it to the environment. What no http or https proxy is means no proxy."""
    for proxies, expected in PROXIES:
        client = rudderstack.Client("KEY", "http://plane.invalid", proxies=proxies)
        assert client.client.settings.proxy_url == expected, proxies
        client.shutdown()
    monkeypatch.setenv("http_proxy", "http://environment:1")
    for given, chosen in (("", "http://environment:1"), ({"http": ""}, "")):
        client = rudderstack.Client("KEY", "http://plane.invalid", proxies=given)
        assert client.client.settings.proxy_url == chosen
        client.shutdown()


def test_a_user_in_the_host_is_left_out_as_in_the_original(plane: DataPlaneServer) -> None:
    """The write key takes its place in the request."""
    client = rudderstack.Client("KEY", plane.url.replace("//", "//user:pass@"), sync_mode=True)
    assert client.track("u", "e")[0]
    client.shutdown()


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("max_queue_size", "many"), ("timeout", 0), ("max_retries", "x"), ("on_error", 5)),
        *(("host", "no URL"), ("host", 5), ("write_key", "")),
    ],
)
def test_a_wrong_module_setting_is_logged_and_does_not_raise_in_a_request(
    sdk: str, setting: str, value: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The default is used. An event without an address or a key is refused."""
    module = SDKS[sdk][1]
    monkeypatch.setattr(module, "write_key", "KEY")
    monkeypatch.setattr(module, "host", "http://127.0.0.1:9")
    monkeypatch.setattr(module, setting, value)
    for _ in range(3):
        module.track("u", "e")
    told = [record.getMessage() for record in caplog.records if setting in record.getMessage()]
    accepted, _ = module.default_client.track("u", "e")
    module.default_client.client.shutdown(0)

    assert accepted == (setting not in ("host", "write_key"))
    assert [line for line in told if "event refused" not in line] == told[:1]
    assert not [name for name in OURS if name in caplog.text]


def test_a_wrong_variable_does_not_raise_in_a_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the setting, and the calls return False."""
    monkeypatch.setenv("RUDDERPIPE_LEASE_MS", "soon")
    monkeypatch.setattr(rudderstack, "write_key", "KEY")
    monkeypatch.setattr(rudderstack, "host", "http://127.0.0.1:9")
    rudderstack.track("u", "e")

    assert rudderstack.default_client is not None
    assert rudderstack.default_client.track("u", "e")[0] is False
    assert "no event can be sent, lease_ms: " in caplog.text
    with pytest.raises(SettingsError, match="lease_ms"):
        rudderstack.Client("KEY", "http://127.0.0.1:9", lease_ms=5)


def test_a_request_has_at_most_upload_size_events(processes: Processes) -> None:
    """Also after an outage, when many events wait."""
    processes.plane.misbehaviour = Misbehaviour(status=503, times=1)
    client = rudderstack.Client("KEY", processes.plane.url, upload_size=50)
    processes.adopt(client.client)
    for number in range(500):
        assert client.track("u", f"e{number}")[0]
    client.flush()

    sizes = [len(json.loads(body)["batch"]) for body in processes.plane.last_events()]
    assert sum(sizes) == 500
    assert max(sizes) <= 50


@pytest.mark.parametrize("sdk", SDKS)
def test_attributes_have_their_effect_at_each_call(sdk: str, plane: DataPlaneServer) -> None:
    """The table says what each SDK sends when an attribute was changed after the client was made."""
    for module in SDKS[sdk]:
        with FaultyPlane() as other, FaultyPlane() as proxy:
            client = module.Client("KEY", plane.url, sync_mode=True, gzip=True)
            before = plane.stats()["requests"]
            assert client.track("u", "to the plane")[0]
            client.host = other.url
            assert client.track("u", "to the other")[0]
            client.gzip = False
            client.write_key = "ANOTHER"
            assert client.track("u", "plain")[0]
            client.send = False
            assert client.track("u", "not sent")[0]
            client.send = True
            client.proxies = {"http": proxy.url}
            client.max_retries, client.debug = "x", object()  # without effect
            assert client.track("u", "by proxy")[0]
            if module is SDKS[sdk][1]:
                client.shutdown()  # with sync_mode the original's raises

            assert plane.stats()["requests"] == before + 1, module
            first, second = other.requests
            assert [first.headers.get("content-encoding"), second.headers.get("content-encoding")] == ["gzip", None]
            assert first.headers["authorization"] != second.headers["authorization"]
            assert [request.events[0]["event"] for request in proxy.requests] == ["by proxy"]


def test_timeout_may_be_changed_later() -> None:
    """With ``sync_mode`` the next call has it."""
    client = rudderstack.Client("KEY", "http://127.0.0.1:9", sync_mode=True)
    client.timeout = (2, 3)
    assert (client.client.settings.connect_timeout_s, client.client.settings.timeout_s) == (2.0, 3.0)
    client.timeout = 4
    assert (client.client.settings.connect_timeout_s, client.client.settings.timeout_s) == (4.0, 4.0)


def test_send_and_sync_mode_may_be_changed_later(processes: Processes) -> None:
    """A client that was made with ``send=False`` delivers from its ring once ``send`` is True."""
    client = rudderstack.Client("KEY", processes.plane.url, send=False, upload_interval=0.1)
    assert client.track("u", "not sent")[0]
    client.send = True
    assert client.track("u", "from the ring")[0]
    processes.adopt(client.client)
    client.sync_mode = True
    assert client.track("u", "within the call")[0]
    client.sync_mode = False
    assert client.track("u", "from the ring again")[0]
    client.send = False
    assert client.track("u", "not sent either")[0]
    client.flush()

    sent = {event["event"] for body in processes.plane.last_events() for event in json.loads(body)["batch"]}
    assert sent == {"from the ring", "within the call", "from the ring again"}
    client.shutdown()


@pytest.mark.parametrize("sdk", SDKS)
def test_names_that_programs_use_are_there(sdk: str) -> None:
    """The versions are those of the originals that this project's tests run beside."""
    real, ours = SDKS[sdk]
    name = {"rudderstack": "rudder-sdk-python", "segment": "segment-analytics-python"}[sdk]
    assert ours.VERSION == ours.__version__ == real.__version__ == version(name)
    assert isinstance(ours.Client.log, logging.Logger)
    client = ours.Client("KEY", "http://127.0.0.1:9", send=False, max_queue_size=7)
    assert client.consumers == []
    assert client.queue.maxsize == 7
    assert (client.queue.qsize(), client.queue.empty(), client.queue.full()) == (0, True, False)
    public = {each for each in vars(real.Client.DefaultConfig) if not each.startswith("_")}
    assert public <= set(dir(ours.Client.DefaultConfig))
    for each in public - {"host"}:
        assert getattr(ours.Client.DefaultConfig, each) == getattr(real.Client.DefaultConfig, each), each
    settings = {each for each in vars(real) if not each.startswith("_")}
    assert settings - set(dir(ours)) <= {"client", "consumer", "request", "utils", "version", "get_env"} | {
        *("deprecation", "warnings", "oauth_manager", "test")
    }


def test_the_queue_counts_this_processes_events(processes: Processes) -> None:
    """``full`` is that of the ring, whose limit holds for all processes together."""
    processes.plane.misbehaviour = Misbehaviour(status=503)
    client = rudderstack.Client("KEY", processes.plane.url, max_queue_size=2)
    processes.adopt(client.client)
    sizes = []
    for _ in range(3):
        accepted, _ = client.track("u", "e")
        sizes.append((accepted, client.queue.qsize(), client.queue.empty(), client.queue.full()))
    assert sizes == [(True, 1, False, False), (True, 2, False, True), (False, 2, False, True)]

    processes.plane.misbehaviour = Misbehaviour()
    wait_until(client.queue.empty)
    assert not client.queue.full()


@pytest.mark.parametrize("sdk", SDKS)
def test_the_originals_library_can_be_sent(sdk: str, plane: DataPlaneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an argument, as an attribute, or on the class for all clients."""
    real, ours = SDKS[sdk]
    _, expected = real.Client("KEY", plane.url, send=False).track("u", "e")
    client = ours.Client("KEY", plane.url, send=False, original_library=True)
    assert client.track("u", "e")[1]["context"] == expected["context"]
    client.original_library = False
    assert client.track("u", "e")[1]["context"]["library"]["name"] == "rudderpipe"
    monkeypatch.setattr(ours.Client, "original_library", True)
    made = ours.Client("KEY", plane.url, sync_mode=True)
    assert made.track("u", "e")[0]
    made.shutdown()
    (event,) = json.loads(plane.last_events()[-1])["batch"]
    assert event["context"] == expected["context"]


def test_oauth_of_segment_is_ignored_with_a_warning(plane: DataPlaneServer, caplog: pytest.LogCaptureFixture) -> None:
    """The write key identifies the source at a data plane."""
    three: dict[str, Any] = {"oauth_client_id": "s3cret", "oauth_client_key": "s3cret", "oauth_key_id": "s3cret"}
    client = segment.Client("KEY", plane.url, sync_mode=True, **three)
    assert client.track("u", "e")[0]
    client.shutdown()

    assert "OAuth is ignored" in caplog.text
    assert "s3cret" not in caplog.text
