"""The drop-ins compared with the real SDKs: the same random calls give the same messages on the wire."""

from __future__ import annotations

import copy
import enum
import inspect
import json
import pickle
import threading
import time
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import rudderstack.analytics.client as real_rudderstack
import rudderstack.analytics.request as rudderstack_request
import segment.analytics.client as real_segment
import segment.analytics.request as segment_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rudderpipe
from native_tests.faulty_plane import FaultyPlane, answer
from native_tests.processes import PATIENCE_S, Processes, wait_until
from rudderpipe.compat import rudderstack, segment
from rudderpipe.compat.errors import APIError, MessageTooLarge, WrongCall
from rudderpipe.errors import DeliveryError
from rudderpipe.observe import snapshot
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour
from rudderpipe.testing.redis_server import RedisServer


class Colour(enum.Enum):
    """An enum, as applications have in their values."""

    RED = "red"
    DEEP = Decimal("1.5")


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    FINITE,
    TEXT,
    TEXT.map(str.encode),
    st.decimals(-1000, 1000, places=2),
    st.sampled_from(Colour),
    st.dates(date(2000, 1, 1), date(2030, 1, 1)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(TEXT, inner, max_size=3),
        st.tuples(inner),
        st.sets(TEXT, max_size=1),
    ),
    max_leaves=8,
)
MAPPINGS = st.one_of(st.none(), st.dictionaries(TEXT, VALUES, max_size=4))
IDS = st.one_of(
    st.none(), st.text("abc 1é", min_size=1, max_size=5).filter(str.strip), st.integers(1, 10**6), st.just(1.5)
)
WRONG = st.sampled_from([5, "text", ["list"], b"bytes"])
EARLY, LATE = datetime.fromisoformat("2001-01-01"), datetime.fromisoformat("2020-01-01")
MOMENTS = st.one_of(
    st.none(),
    st.datetimes(EARLY, LATE),
    st.datetimes(EARLY, LATE, timezones=st.just(timezone(timedelta(hours=5, minutes=30)))),
)


def mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy that sometimes gives a value of a type that no argument takes."""
    return st.integers(0, 11).flatmap(lambda number: right if number else WRONG)


COMMON = {
    "context": mostly(MAPPINGS),
    "timestamp": mostly(MOMENTS),
    "integrations": mostly(MAPPINGS),
    "message_id": st.one_of(st.none(), TEXT, st.integers()),
}
USER = {"user_id": mostly(IDS), "anonymous_id": IDS}
NAMES = {"category": mostly(st.one_of(st.none(), TEXT)), "name": st.one_of(st.none(), TEXT)}
CALLS = {
    "identify": {**USER, "traits": mostly(MAPPINGS), **COMMON},
    "track": {**USER, "event": mostly(TEXT), "properties": mostly(MAPPINGS), **COMMON},
    "page": {**USER, **NAMES, "properties": MAPPINGS, **COMMON},
    "screen": {**USER, **NAMES, "properties": MAPPINGS, **COMMON},
    "group": {**USER, "group_id": IDS, "traits": MAPPINGS, **COMMON},
    "alias": {"previous_id": IDS, "user_id": IDS, **COMMON},
}
NEEDED = {"track": {"user_id", "event"}, "group": {"user_id", "group_id"}, "alias": {"previous_id", "user_id"}}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Return a call with some of its arguments."""
    name = draw(st.sampled_from(sorted(CALLS)))
    arguments = CALLS[name]
    given_ = draw(st.sets(st.sampled_from(sorted(arguments)))) | NEEDED.get(name, {"user_id"})
    return name, {argument: draw(arguments[argument]) for argument in sorted(given_)}


def outcome(client: Any, call: tuple[str, dict[str, Any]], plane: DataPlaneServer) -> tuple[Any, Any]:
    """Return what the call returned or raised, and what the data plane got from it."""
    name, arguments = call
    before = plane.stats()["requests"]
    try:
        ok, _message = getattr(client, name)(**copy.deepcopy(arguments))
    except (AssertionError, TypeError, ValueError):  # TypeError and ValueError come by accident, as from context=5
        return "refused", None
    if plane.stats()["requests"] == before:
        return ok, None
    (event,) = json.loads(plane.last_events()[-1])["batch"]
    return ok, normalized(event, arguments)


def normalized(event: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the event without generated ids, the time of the call and the library, and with times in one form."""
    event.pop("sentAt", None)
    assert event["context"].pop("library")["name"]
    if arguments.get("message_id") is None:
        assert event.pop("messageId")
    moment = datetime.fromisoformat(event.pop("timestamp").replace("Z", "+00:00"))
    if arguments.get("timestamp") is not None:
        event["timestamp"] = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    return event


@pytest.mark.parametrize("sdk", ["rudderstack", "segment"])
def test_a_drop_in_makes_the_messages_of_the_real_sdk(sdk: str, plane: DataPlaneServer) -> None:
    """For 400 random calls, with wrong arguments among them, both give the same event or the same kind of exception."""
    real_module = {"rudderstack": real_rudderstack, "segment": real_segment}[sdk]
    real = real_module.Client("KEY", host=plane.url, sync_mode=True, gzip=True)
    our_module: Any = {"rudderstack": rudderstack, "segment": segment}[sdk]
    ours = our_module.Client("KEY", host=plane.url, sync_mode=True, gzip=True)
    compared = []

    @settings(derandomize=True, max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(calls())
    def both(call: tuple[str, dict[str, Any]]) -> None:
        expected = outcome(real, call, plane)
        got = outcome(ours, call, plane)
        if sdk == "segment" and got[1] is not None:
            assert got[1].pop("channel") == "server"  # RudderStack's server distinguishes its sources by the channel
        assert got == expected
        compared.append(got)

    try:
        both()
    finally:
        ours.shutdown()
        {"rudderstack": rudderstack_request, "segment": segment_request}[sdk]._session.close()  # noqa: SLF001  # the SDK has no other way to close its connection

    assert sum(event is not None for _, event in compared) > 150
    assert sum(result == "refused" for result, _ in compared) > 50


def compat(processes: Processes, module: Any = rudderstack, **arguments: Any) -> Any:
    """Return the drop-in on this test's pipe."""
    own = {name: processes.explicit[name] for name in ("pipe", "runtime_dir", "linger_s")}
    given = {"write_key": "WRITE_KEY", "host": processes.plane.url, "upload_interval": 0.1, **arguments}
    client = module.Client(**given, **own)
    processes.adopt(client.client)
    return client


def test_arguments_have_the_sdks_positions_and_defaults() -> None:
    """This holds for the constructors and all methods. A drop-in has others by keyword alone."""
    pairs = [(real_rudderstack.Client, rudderstack.Client), (real_segment.Client, segment.Client)]
    for real, ours in pairs:
        for method in (
            "__init__",
            "identify",
            "track",
            "alias",
            "group",
            "page",
            "screen",
            "flush",
            "join",
            "shutdown",
        ):
            expected = [
                (each.name, None if each.name == "host" else each.default)
                for each in inspect.signature(getattr(real, method)).parameters.values()
            ]
            got = [
                (each.name, each.default)
                for each in inspect.signature(getattr(ours, method)).parameters.values()
                if each.kind is each.POSITIONAL_OR_KEYWORD
            ]
            assert got == expected, (real, method)


def test_module_functions_use_the_modules_settings(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many applications use only a configured module. ``dataPlaneUrl`` wins over ``host``."""
    for name, value in processes.environment.items():
        if name in ("RUDDERPIPE_RUNTIME_DIR", "RUDDERPIPE_LINGER_S", "RUDDERPIPE_PIPE"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(rudderstack, "write_key", "WRITE_KEY")
    monkeypatch.setattr(rudderstack, "host", "http://nowhere.invalid")
    monkeypatch.setattr(rudderstack, "dataPlaneUrl", processes.plane.url)
    monkeypatch.setattr(rudderstack, "upload_size", 2)
    monkeypatch.setattr(rudderstack, "default_client", None)

    assert rudderstack.identify("u1", {"plan": "pro"}) is None  # type: ignore[func-returns-value]  # as in the real SDK
    rudderstack.track("u1", "Item Viewed", {"n": 1})
    rudderstack.page("u1", "Docs", "Queue")
    rudderstack.screen("u1", name="Home")
    rudderstack.group("u1", "acme")
    rudderstack.alias("anonymous", "u1")
    rudderstack.flush()

    assert rudderstack.default_client is not None
    processes.adopt(rudderstack.default_client.client)
    events = [event for body in processes.plane.last_events() for event in json.loads(body)["batch"]]
    assert [event["type"] for event in events] == ["identify", "track", "page", "screen", "group", "alias"]
    assert rudderstack.default_client.client.settings.flush_at == 2
    rudderstack.shutdown()
    ok, _message = rudderstack.default_client.track("u1", "too late")
    assert not ok


def test_a_call_changes_no_dict_of_its_caller(processes: Processes) -> None:
    """The real SDK writes traits and library into the context of the caller."""
    client = compat(processes)
    context, traits, properties = {"ip": "1.1.1.1"}, {"plan": "pro"}, {"items": [{"n": 1}]}
    before = copy.deepcopy((context, traits, properties))

    ok, message = client.identify("u", traits, context)
    message["context"]["ip"] = "2.2.2.2"
    client.track("u", "e", properties, context)[1]["properties"]["items"][0]["n"] = 2

    assert ok
    assert (context, traits, properties) == before


def test_the_error_of_a_too_large_event_hides_the_event(processes: Processes) -> None:
    """The error is a ``RuntimeError``, as in the real SDK."""
    with pytest.raises(RuntimeError) as caught:
        compat(processes).track("u", "e", {"secret": "s3cret" * 1_000_000})

    assert isinstance(caught.value, MessageTooLarge)
    assert len(str(caught.value)) < 200
    assert "s3cret" not in str(caught.value)


def test_the_error_of_a_wrong_call_hides_the_value() -> None:
    """The error is an ``AssertionError``, as in the real SDK, and one of our errors."""
    client = rudderstack.Client("KEY", "http://127.0.0.1:9", send=False)
    with pytest.raises(AssertionError) as caught:
        client.track("u", ["s3cret"])  # type: ignore[arg-type]  # the wrong value of the test

    assert isinstance(caught.value, (WrongCall, rudderpipe.EventError))
    assert str(caught.value) == "event: must be a str, not list"


def test_a_value_that_json_cannot_hold_is_refused_and_counted(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """The real SDK drops the key. The drop-in refuses the event, logs the value's path and raises nothing."""
    client = compat(processes)
    ok, _message = client.track("u", "e", {"items": [{"price": object()}]})

    assert not ok
    assert client.client.counts() == {"accepted": 0, "invalid": 1} or client.client.counts() == {}
    assert "properties.items[0].price: is of type object" in caplog.text


REFUSED = b'{"code": "invalid_write_key", "message": "Invalid write key"}'


@pytest.mark.parametrize("sdk", ["rudderstack", "segment"])
def test_on_error_is_called_once_for_a_batch_and_may_raise(sdk: str, processes: Processes) -> None:
    """The error has the attributes of the original's. An exception stops neither the next call nor a flush."""
    received: list[tuple[Any, list[dict[str, Any]]]] = []

    def on_error(error: Exception, batch: list[dict[str, Any]]) -> None:
        received.append((error, batch))
        raise ValueError("of the application")

    module: Any = {"rudderstack": rudderstack, "segment": segment}[sdk]
    request = {"rudderstack": rudderstack_request, "segment": segment_request}[sdk]
    real = request.APIError(401, "invalid_write_key", "Invalid write key")
    with FaultyPlane(answer(401, REFUSED)) as plane:
        client = compat(processes, module, host=plane.url, on_error=on_error, upload_size=3, upload_interval=60)
        for number in range(6):
            assert client.track("u", f"e{number}")[0]
        client.flush()

    assert [[event["event"] for event in batch] for _, batch in received] == [["e0", "e1", "e2"], ["e3", "e4", "e5"]]
    for error, _ in received:
        assert issubclass(module.APIError, DeliveryError)
        assert type(error) is module.APIError
        assert (error.status, error.code, error.message) == (real.status, real.code, real.message)
        assert str(error) == str(real)
        assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


def test_with_a_queue_the_log_and_a_flush_have_what_on_error_does_not(
    processes: Processes, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender finds the failure out, after the events have left the ring."""
    received: list[Any] = []
    with FaultyPlane(answer(401, REFUSED)) as plane:
        client = compat(
            processes, host=plane.url, redis=redis_server.url, on_error=lambda error, _batch: received.append(error)
        )
        assert client.track("u", "e")[0]
        client.flush()
        result = client.client.flush(PATIENCE_S, until="delivered")

    assert not result
    assert (result.failed, result.complete) == (1, True)
    assert "invalid_write_key" in result.reason
    wait_until(lambda: "invalid_write_key" in caplog.text)
    assert not received


def test_flush_waits_for_on_error(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that ``flush(); sys.exit(bool(failed))`` would report success."""
    monkeypatch.setattr("rudderpipe.compat.client.LOOK_S", 0.05)
    waits, received = threading.Event(), []
    pause = time.sleep

    def sleep(seconds: float) -> None:
        waits.set()
        pause(seconds)

    def on_error(_error: Exception, batch: list[dict[str, Any]]) -> None:
        waits.wait(PATIENCE_S)
        received.extend(batch)

    processes.plane.misbehaviour = Misbehaviour(status=401)
    client = compat(processes, on_error=on_error)
    assert client.track("u", "e")[0]
    processes.flusher()
    monkeypatch.setattr("rudderpipe.compat.client.time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    try:
        client.flush()
        assert [event["event"] for event in received] == ["e"]
    finally:
        waits.set()


def test_flush_ends_if_on_error_does_not_return(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The original waits forever."""
    monkeypatch.setattr("rudderpipe.compat.client.LOOK_S", 0.05)
    monkeypatch.setattr("rudderpipe.compat.client.STUCK_S", 0.5)
    ends = threading.Event()
    processes.plane.misbehaviour = Misbehaviour(status=401)
    client = compat(processes, on_error=lambda _error, _batch: ends.wait(PATIENCE_S))
    assert client.track("u", "e")[0]
    processes.flusher()
    wait_until(lambda: processes.plane.stats()["refused"])
    try:
        client.flush()
        client.shutdown()
    finally:
        ends.set()

    assert "on_error has not returned" in caplog.text


def test_on_error_may_flush(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """The flush does not wait for the ``on_error`` that it is called from. The original's would do so forever."""
    flushed: list[str] = []

    def on_error(_error: Exception, batch: list[dict[str, Any]]) -> None:
        client.flush()
        flushed.append(batch[0]["event"])

    processes.plane.misbehaviour = Misbehaviour(status=401)
    client = compat(processes, on_error=on_error)
    assert client.track("u", "e")[0]
    client.flush()

    assert flushed == ["e"]
    assert "has not returned" not in caplog.text


def test_flush_join_and_shutdown_end_without_redis(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is away. The events stay in the ring for the flusher, which goes on waiting for Redis."""
    monkeypatch.setattr("rudderpipe.compat.client.STUCK_S", 0.5)
    client = compat(processes, redis=f"unix://{processes.explicit['runtime_dir']}/no.sock")
    assert client.track("u", "e")[0]

    client.flush()
    assert client.queue.qsize() == 1
    client.join()
    client.shutdown()

    assert not client.track("u", "too late")[0]
    assert snapshot.take(client.client.settings).events.in_ring == 1


def test_flush_ends_when_no_event_moves(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The data plane is away. The events stay in the ring, and the log says why."""
    monkeypatch.setattr("rudderpipe.compat.client.STUCK_S", 1.0)
    processes.plane.misbehaviour = Misbehaviour(status=503)
    client = compat(processes)
    assert client.track("u", "e")[0]

    client.flush()

    assert "flush: 1 events have not moved for 1 s, they are delivered later: the flusher cannot reach" in caplog.text
    assert processes.status().events.in_ring == 1
    processes.plane.misbehaviour = Misbehaviour()
    processes.delivered(1)


def test_flush_waits_for_a_data_plane_that_comes_back(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flusher is in a pause between two attempts. That is no reason to give up."""
    monkeypatch.setattr("rudderpipe.compat.client.LOOK_S", 0.05)
    processes.plane.misbehaviour = Misbehaviour(status=503, times=1)
    client = compat(processes)
    assert client.track("u", "e")[0]
    client.flush()

    assert processes.plane.stats()["events"] == 1


def test_requests_go_through_the_given_proxy() -> None:
    """The proxy is given by scheme, by host, or as one address without a scheme."""
    for proxies in (
        lambda url: {"http": url},
        lambda url: {"http://plane.invalid": url, "http": "http://127.0.0.1:9"},
        lambda url: url.removeprefix("http://"),
    ):
        with FaultyPlane() as proxy:
            client = rudderstack.Client("KEY", "http://plane.invalid", sync_mode=True, proxies=proxies(proxy.url))
            assert client.track("u", "e")[0]
            client.shutdown()
            assert proxy.requests[0].line.startswith("POST http://plane.invalid/v1/batch")


def test_sync_mode_raises_for_a_failed_delivery() -> None:
    """The call retries as the sender does, raises the original's error, and ``shutdown`` works afterwards."""
    with FaultyPlane(answer(401, REFUSED)) as plane:
        client = rudderstack.Client("KEY", plane.url, sync_mode=True)
        with pytest.raises(APIError) as caught:
            client.track("u", "e")
        error = caught.value
        assert (error.status, error.code, error.message) == (401, "invalid_write_key", "Invalid write key")
        plane.then(answer())
        assert client.track("u", "e")[0]
        client.shutdown()


def test_send_false_returns_as_if_sent() -> None:
    """Nothing is started or sent."""
    client = rudderstack.Client("KEY", "http://127.0.0.1:9", send=False)
    ok, message = client.track("u", "e", {"n": 1})

    assert ok
    assert message["properties"] == {"n": 1}
    assert client.client.counts() == {"accepted": 1}
    client.shutdown()
