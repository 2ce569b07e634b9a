"""The drop-ins beside the real SDKs: the same calls, with random arguments, give the same message on the wire."""

from __future__ import annotations

import copy
import enum
import inspect
import json
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
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
from native_tests.processes import Processes, wait_until
from rudderpipe.compat import rudderstack, segment
from rudderpipe.compat.messages import MessageTooLarge, WrongCall
from rudderpipe.errors import DeliveryError
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour


class Colour(enum.Enum):
    """A value of the kind that applications have."""

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
    """Once in a while something of a type that no argument takes."""
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
    """A call, with some of its arguments."""
    name = draw(st.sampled_from(sorted(CALLS)))
    arguments = CALLS[name]
    given_ = draw(st.sets(st.sampled_from(sorted(arguments)))) | NEEDED.get(name, {"user_id"})
    return name, {argument: draw(arguments[argument]) for argument in sorted(given_)}


def outcome(client: Any, call: tuple[str, dict[str, Any]], plane: DataPlaneServer) -> tuple[Any, Any]:
    """What the call answered or raised, and what reached the data plane by it."""
    name, arguments = call
    before = plane.stats()["requests"]
    try:
        ok, _message = getattr(client, name)(**copy.deepcopy(arguments))
    except (AssertionError, TypeError, ValueError):  # the last two by accident: context=5 has no items to assign to
        return "refused", None
    if plane.stats()["requests"] == before:
        return ok, None
    (event,) = json.loads(plane.last_events()[-1])["batch"]
    return ok, normalized(event, arguments)


def normalized(event: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Less what may differ: generated ids, the moment of the call, the library, and how a moment is spelt."""
    event.pop("sentAt", None)
    assert event["context"].pop("library")["name"]
    if arguments.get("message_id") is None:
        assert event.pop("messageId")
    spelt = datetime.fromisoformat(event.pop("timestamp").replace("Z", "+00:00"))
    if arguments.get("timestamp") is not None:
        event["timestamp"] = spelt.replace(microsecond=spelt.microsecond // 1000 * 1000)
    return event


@pytest.mark.parametrize("sdk", ["rudderstack", "segment"])
def test_our_messages_are_equal_to_those_of_the_node_sdk(sdk: str, plane: DataPlaneServer) -> None:
    """400 random calls, wrong arguments among them: the same event, or the same kind of exception, from both."""
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
            assert got[1].pop("channel") == "server"  # RudderStack's server tells its sources apart by it
        assert got == expected
        compared.append(got)

    try:
        both()
    finally:
        ours.shutdown()
        {"rudderstack": rudderstack_request, "segment": segment_request}[sdk]._session.close()  # noqa: SLF001  # its connection has no other end

    assert sum(event is not None for _, event in compared) > 150
    assert sum(answer == "refused" for answer, _ in compared) > 50


def compat(processes: Processes, **arguments: Any) -> rudderstack.Client:
    """The drop-in on this test's pipe."""
    own = {name: processes.explicit[name] for name in ("pipe", "runtime_dir", "linger_s")}
    given = {"write_key": "WRITE_KEY", "host": processes.plane.url, "upload_interval": 0.1, **arguments}
    client = rudderstack.Client(**given, **own)
    processes.adopt(client.client)
    return client


def test_arguments_have_the_sdks_positions_and_defaults() -> None:
    """By name, order and default, for the constructors and all six calls; ours may only have more at the end."""
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
                if not each.name.startswith(("oauth_", "max_total", "max_rate"))
            ]
            got = [
                (each.name, each.default)
                for each in inspect.signature(getattr(ours, method)).parameters.values()
                if each.kind is not each.VAR_KEYWORD
            ]
            assert got == expected, (real, method)


def test_module_functions_and_settings(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured module is all that an application has; ``dataPlaneUrl`` wins over ``host``."""
    for name, value in processes.environment.items():
        if name in ("RUDDERPIPE_RUNTIME_DIR", "RUDDERPIPE_LINGER_S", "RUDDERPIPE_PIPE"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(rudderstack, "write_key", "WRITE_KEY")
    monkeypatch.setattr(rudderstack, "host", "http://nowhere.invalid")
    monkeypatch.setattr(rudderstack, "dataPlaneUrl", processes.plane.url)
    monkeypatch.setattr(rudderstack, "upload_size", 2)
    monkeypatch.setattr(rudderstack, "default_client", None)

    assert rudderstack.identify("u1", {"plan": "pro"}) is None  # type: ignore[func-returns-value]  # as there
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


def test_the_callers_dicts_are_left_alone(processes: Processes) -> None:
    """The real SDK writes traits and library into the context that it is given."""
    client = compat(processes)
    context, traits, properties = {"ip": "1.1.1.1"}, {"plan": "pro"}, {"items": [{"n": 1}]}
    before = copy.deepcopy((context, traits, properties))

    ok, message = client.identify("u", traits, context)
    message["context"]["ip"] = "2.2.2.2"
    client.track("u", "e", properties, context)[1]["properties"]["items"][0]["n"] = 2

    assert ok
    assert (context, traits, properties) == before


def test_too_large_is_said_without_the_event(processes: Processes) -> None:
    """A ``RuntimeError``, as there, but of a few words."""
    with pytest.raises(RuntimeError) as caught:
        compat(processes).track("u", "e", {"secret": "s3cret" * 1_000_000})

    assert isinstance(caught.value, MessageTooLarge)
    assert len(str(caught.value)) < 200
    assert "s3cret" not in str(caught.value)


def test_a_wrong_call_is_said_without_the_value() -> None:
    """An ``AssertionError``, as there, and one of ours."""
    client = rudderstack.Client("KEY", "http://127.0.0.1:9", send=False)
    with pytest.raises(AssertionError) as caught:
        client.track("u", ["s3cret"])  # type: ignore[arg-type]  # the point

    assert isinstance(caught.value, (WrongCall, rudderpipe.EventError))
    assert str(caught.value) == "event: must be a str, not list"


def test_a_value_that_json_cannot_hold_is_answered_and_counted(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """The real SDK drops the key; here the event is refused by its path, and nothing is raised."""
    client = compat(processes)
    ok, _message = client.track("u", "e", {"items": [{"price": object()}]})

    assert not ok
    assert client.client.counts() == {"accepted": 0, "invalid": 1} or client.client.counts() == {}
    assert "properties.items[0].price: is of type object" in caplog.text


def test_on_error_is_told_and_may_raise(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """Each failed event comes to it; what it raises stops neither the next call of it nor a flush."""
    told: list[tuple[Exception, list[dict[str, Any]]]] = []

    def on_error(error: Exception, batch: list[dict[str, Any]]) -> None:
        told.append((error, batch))
        raise ValueError("of the application")

    processes.plane.misbehaviour = Misbehaviour(status=400)
    client = compat(processes, on_error=on_error, upload_size=1)
    for number in range(3):
        assert client.track("u", f"e{number}")[0]
    client.flush()

    wait_until(lambda: len(told) == 3)
    assert [batch[0]["event"] for _, batch in told] == ["e0", "e1", "e2"]
    assert all(isinstance(error, DeliveryError) for error, _ in told)
    wait_until(lambda: "raised ValueError" in caplog.text)


def test_flush_ends_when_nothing_moves(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a data plane that is away, after a bounded time; the events stay in the ring."""
    monkeypatch.setattr("rudderpipe.compat.client.STUCK_S", 1.0)
    processes.plane.misbehaviour = Misbehaviour(status=503)
    client = compat(processes)
    assert client.track("u", "e")[0]

    client.flush()

    assert processes.status().events.in_ring == 1
    processes.plane.misbehaviour = Misbehaviour()
    processes.delivered(1)


def test_proxies_are_used() -> None:
    """The proxy gets the request, by scheme, by host, or as one address without a scheme."""
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


def test_sync_mode_raises_what_could_not_be_delivered() -> None:
    """After the retries of any sender; and ``shutdown`` works."""
    with FaultyPlane(answer(401, b"no such key")) as plane:
        client = rudderstack.Client("KEY", plane.url, sync_mode=True)
        with pytest.raises(DeliveryError, match="401"):
            client.track("u", "e")
        plane.then(answer())
        assert client.track("u", "e")[0]
        client.shutdown()


def test_send_false_answers_as_if_sent() -> None:
    """Nothing is started or sent."""
    client = rudderstack.Client("KEY", "http://127.0.0.1:9", send=False)
    ok, message = client.track("u", "e", {"n": 1})

    assert ok
    assert message["properties"] == {"n": 1}
    assert client.client.counts() == {"accepted": 1}
    client.shutdown()
