"""Accepted events are JSON that means what the caller's values mean, on the fast path and on the slow one."""

from __future__ import annotations

import base64
import collections
import dataclasses
import enum
import json
import math
import pathlib
import re
import types
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import rudderpipe
from rudderpipe.encoder import encode
from rudderpipe.errors import EventError
from rudderpipe.messages import build, wire
from rudderpipe.messages.encode import plain
from rudderpipe.transports import intake
from rudderpipe.transports.base import Encoded, FastPath, LocalTransport
from rudderpipe.transports.callbacks import Callback

UTC = timezone.utc
# HealthCheck.too_slow is switched off, because a busy machine generates values slowly.
INDIA = timezone(timedelta(hours=5, minutes=30))
SURROGATES = "".join(map(chr, range(0xD800, 0xE000)))


class Colour(enum.Enum):
    RED = "red"
    PRICE = Decimal("19.95")
    NUMBER = 7
    NONE = None
    MOMENT = datetime(2024, 1, 2, 3, 4, 5)  # noqa: DTZ001  # without a zone, it is UTC


class Level(enum.IntEnum):
    LOW = 1


class Kind(str, enum.Enum):
    """A member whose text differs from its value."""

    A = "a"

    def __new__(cls, text: str) -> Kind:
        member = str.__new__(cls, "not " + text)
        member._value_ = text
        return member


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class Whole(int):
    def __int__(self) -> int:
        return 99


class Items(list):  # type: ignore[type-arg]  # any items
    def __iter__(self) -> Iterator[Any]:
        return iter(("others",))

    def __len__(self) -> int:
        return 0


class Pairs(dict):  # type: ignore[type-arg]  # any items
    def __iter__(self) -> Iterator[Any]:
        return iter(("other",))

    def items(self) -> Any:
        return [("other", 1)]

    def keys(self) -> Any:
        return ["other"]


class NoOffset(type(UTC).__base__):  # type: ignore[misc]  # tzinfo
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None


@dataclasses.dataclass
class Point:
    x: Any
    _private: Any = 1
    shared: dataclasses.InitVar[int] = 0


@attrs.define
class Item:
    price: Any
    _hidden: int = 1


class Plain(msgspec.Struct):
    x: Any


class Odd(msgspec.Struct, array_like=True, tag="odd"):
    x: Any


class Short(msgspec.Struct, omit_defaults=True, rename="camel"):
    first_name: Any = None
    items: list[Any] = []


class Model(pydantic.BaseModel):
    x: Any


# The model: each pair is a value of the caller and its meaning, which is what a strict reader must find.

Pair = tuple[Any, Any]


def _mended(text: str) -> str:
    return "".join("\ufffd" if character in SURROGATES else character for character in text)


def _number(value: float) -> Pair:
    return value, value if math.isfinite(value) else None


def _decimal(value: Decimal) -> Pair:
    return value, value if value.is_finite() else None


def _zoned(value: datetime) -> str:
    """Return the moment as RFC 3339 writes it."""
    spelt = (value if value.utcoffset() is not None else value.replace(tzinfo=UTC)).isoformat()
    return spelt.replace("+00:00", "Z")


TEXTS = st.text(st.characters(codec=None), max_size=8).map(lambda text: (text, _mended(text)))
MISLEADING = st.sampled_from(["NaN", "Infinity", "-Infinity", "T12:00:00", '"', "\n\x1b\x00", "\u202e"]).map(
    lambda text: (text, text)
)
MOMENTS = st.datetimes(
    datetime(1000, 1, 2),  # noqa: DTZ001  # bounds are given without a zone
    datetime(9999, 12, 30),  # noqa: DTZ001  # the same
    timezones=st.sampled_from([UTC, INDIA, None, NoOffset()]),
).map(lambda moment: (moment, _zoned(moment)))
SCALARS: st.SearchStrategy[Pair] = st.one_of(
    st.sampled_from([None, True, False]).map(lambda value: (value, value)),
    st.integers().map(lambda value: (value, value)),
    st.integers(-(10**40), 10**40).map(lambda value: (value, value)),
    st.floats().map(_number),
    TEXTS,
    MISLEADING,
    st.decimals(allow_nan=True, allow_infinity=True).map(_decimal),
    MOMENTS,
    st.dates().map(lambda value: (value, value.isoformat())),
    st.times().map(lambda value: (value, value.isoformat())),
    st.uuids().map(lambda value: (value, str(value))),
    st.binary(max_size=8).map(lambda value: (value, base64.b64encode(value).decode())),
    st.binary(max_size=8).map(lambda value: (bytearray(value), base64.b64encode(value).decode())),
    st.just((timedelta(days=1), "P1D")),
    st.sampled_from(
        [
            (Colour.RED, "red"),
            (Colour.PRICE, Decimal("19.95")),
            (Colour.NUMBER, 7),
            (Colour.NONE, None),
            (Colour.MOMENT, "2024-01-02T03:04:05Z"),
            (Level.LOW, 1),
            (Kind.A, "a"),
            (Text("text"), "text"),
            (Whole(5), 5),
            (pathlib.PurePosixPath("/a"), "/a"),
            (np.int64(3), 3),
            (np.float32(1.5), 1.5),
            (np.float64("inf"), None),
            (np.bool_(True), True),
            (np.str_("x"), "x"),
            (np.datetime64("2024-01-02T03:04:05", "ns"), "2024-01-02T03:04:05Z"),
            (np.timedelta64(1, "D"), "P1D"),
            (np.datetime64("NaT", "s"), None),
            (pd.Timestamp("2024-01-02T03:04:05"), "2024-01-02T03:04:05Z"),
            (pd.NaT, None),
            (pd.NA, None),
        ]
    ),
)


def _key_of(meaning: Any) -> str:
    """Return the key in JSON: a key that is no text becomes its JSON text."""
    if isinstance(meaning, str):
        return meaning
    if isinstance(meaning, (Decimal, int)) and not isinstance(meaning, bool):
        return str(meaning)
    return msgspec.json.encode(meaning).decode()


def _is_key(value: Any) -> bool:
    """Return False for a value that cannot be a key.

    Moments of numpy and NA of pandas are no keys here, because comparing them with other values warns or raises.
    """
    if isinstance(value, (np.datetime64, np.timedelta64)) or value is pd.NA:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


KEYS = SCALARS.filter(lambda pair: _is_key(pair[0])).map(lambda pair: (pair[0], _key_of(pair[1])))


def _dict_of(pairs: list[tuple[Pair, Pair]]) -> Pair:
    """Return a dict and its meaning: of equal keys, and of keys with one text, the last value counts."""
    given: dict[Any, Any] = {}
    for (key, _), (value, _) in pairs:
        given[key] = value
    names = {id(key): name for (key, name), _ in pairs}
    meaning_of = {id(value): meaning for _, (value, meaning) in pairs}
    return given, {names[id(key)]: meaning_of[id(value)] for key, value in given.items()}


def _containers(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    items = st.lists(inner, max_size=3)
    pairs = st.lists(st.tuples(KEYS, inner), max_size=3, unique_by=lambda pair: pair[0][1])
    dicts = pairs.map(_dict_of)

    def of(make: Callable[[list[Any]], Any]) -> Callable[[list[Pair]], Pair]:
        return lambda pairs: (make([value for value, _ in pairs]), [meaning for _, meaning in pairs])

    def named(make: Callable[[Any], Any], name: str) -> Callable[[Pair], Pair]:
        return lambda pair: (make(pair[0]), {name: pair[1]})

    return st.one_of(
        *(items.map(of(make)) for make in (list, tuple, Items, collections.deque)),
        dicts,
        dicts.map(lambda pair: (Pairs(pair[0]), pair[1])),
        dicts.map(lambda pair: (collections.OrderedDict(pair[0]), pair[1])),
        dicts.map(lambda pair: (types.MappingProxyType(pair[0]), pair[1])),
        *(inner.map(named(make, "x")) for make in (Point, Plain)),
        SCALARS.map(named(lambda x: Model(x=x), "x")),  # pydantic dumps what is further in by itself
        inner.map(named(Item, "price")),
        inner.map(lambda pair: (Odd(pair[0]), ["odd", pair[1]])),
        inner.map(lambda pair: (Short(pair[0]), {} if pair[0] is None else {"firstName": pair[1]})),
        st.integers().map(lambda number: ({number}, [number])),
    )


VALUES = st.recursive(SCALARS, _containers, max_leaves=8)
NAMES = st.text(st.characters(codec=None), max_size=6)


def strictly(data: bytes | bytearray) -> Any:
    """Return what a strict reader finds: RFC 8259, UTF-8, no key twice, numbers to the last digit."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        assert len(found) == len(pairs), f"a key twice: {pairs}"
        return found

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(bytes(data).decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_float=Decimal)


def same(meaning: Any, found: Any) -> bool:
    """Return True if the reader found the meaning; a float is found as its shortest text."""
    if isinstance(meaning, float):
        return isinstance(found, (int, Decimal)) and float(found) == meaning
    if isinstance(meaning, bool) or meaning is None or isinstance(meaning, str):
        return type(meaning) is type(found) and bool(meaning == found)
    if isinstance(meaning, (int, Decimal)):
        return not isinstance(found, (bool, str, list, dict)) and found is not None and bool(meaning == found)
    if isinstance(meaning, list):
        return isinstance(found, list) and len(meaning) == len(found) and all(map(same, meaning, found))
    return (
        isinstance(found, dict)
        and meaning.keys() == found.keys()
        and all(same(meaning[key], found[key]) for key in meaning)
    )


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, VALUES, max_size=3))
@example({"a": ({Decimal("19.95"): "x"}, {"19.95": "x"})})
@example({"a": ({Colour.PRICE: 1}, {"19.95": 1})})
@example({"a": ({1: "a", "1": "b"}, {"1": "b"})})
@example({"a": ({True: 1}, {"true": 1}), "b": ("NaN", "NaN")})
@example({"a": (msgspec.Raw(b'{"a": 1.10, "a": [2e3]}'), {"a": [Decimal(2000)]})})
@example({"a": (Point(1), {"x": 1}), "b": ("Infinity", "Infinity")})
@example({"a": (dict(zip(("\ud800", "\ufffd"), (1, 2), strict=True)), {"\ufffd": 2})})
def test_a_sent_event_means_what_the_caller_gave(properties: dict[str, Pair]) -> None:
    """The reader forgives nothing. The fast path, the slow path and a whole message must agree."""
    given = {name: value for name, (value, _) in properties.items()}

    data = build.track("u", "e", given, *[None] * 5)

    found = strictly(data)["properties"]
    expected: dict[str, Any] = {}
    for name, (_, meaning) in properties.items():
        expected[_mended(name)] = meaning
    assert same(expected, found), (given, found)
    assert data.endswith(b'"properties":' + encode(plain(given, "")) + b"}")
    slow_path = build.track("u", "e", given, {"a": 1}, *[None] * 4)
    assert strictly(slow_path)["properties"] == found
    in_whole = build.track({"userId": "u", "event": "e", "properties": given, "more": given}, *[None] * 7)
    assert strictly(in_whole)["properties"] == strictly(in_whole)["more"] == found


class TakingTransport(LocalTransport):
    """A transport that keeps accepted events, on request with a fast path."""

    def __init__(self, *, has_fast_path: bool) -> None:
        super().__init__()
        self.events: list[bytes] = []
        self._has_fast_path = has_fast_path

    def put(self, data: Encoded, callback: Callback | None = None, on_error: Callback | None = None) -> None:
        """Keep the event."""
        self.events.append(bytes(data))

    def fast_path(self) -> FastPath | None:
        """Return the functions of the fast path, as the ring's transport does."""
        return FastPath(self.put, self._append_chunk, lambda _reason, _data: None) if self._has_fast_path else None

    def _append_chunk(self, events: Sequence[Encoded]) -> tuple[int, str | None]:
        self.events += map(bytes, events)
        return len(events), None


@contextmanager
def taken(*, has_fast_path: bool) -> Iterator[TakingTransport]:
    """Yield the transport to which all clients send meanwhile."""
    transport = TakingTransport(has_fast_path=has_fast_path)
    intake.divert(transport)
    try:
        yield transport
    finally:
        intake.divert(None)


class Hostile:
    """An object that raises at every access, even to its class."""

    @property  # type: ignore[misc]  # a class that can be read and not set
    def __class__(self) -> Any:
        raise ValueError("s3cret")

    def __getattr__(self, name: str) -> Any:
        raise ValueError("s3cret")

    def __eq__(self, other: object) -> bool:
        raise ValueError("s3cret")

    def __hash__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        raise ValueError("s3cret")

    def __repr__(self) -> str:
        return "Hostile()"  # for the output of hypothesis

    def __call__(self, *arguments: Any) -> Any:
        raise ValueError("s3cret")


class BrokenMapping(Mapping[str, Any]):
    """A mapping that raises when a value is read, and has a negative length."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("s3cret")

    def __iter__(self) -> Iterator[str]:
        yield "a"

    def __len__(self) -> int:
        return -1


def cyclic() -> Any:
    """Return a dict that contains itself."""
    value: dict[str, Any] = {}
    value["me"] = [value]
    return value


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    VALUES.map(lambda pair: pair[0]),
    st.builds(Hostile),
    st.builds(BrokenMapping),
    st.builds(object),
    st.builds(cyclic),
    st.sampled_from([len, Hostile, 1j, msgspec.Raw(b"{"), msgspec.Raw(b'"\xff"'), msgspec.UNSET, {(1,): 2}]),
    st.dictionaries(NAMES, VALUES.map(lambda pair: pair[0]), max_size=2),
    st.just("u"),
    st.builds(lambda: 10**5000),
)
MADE_EACH_TIME = re.compile(rb'"originalTimestamp":"[^"]+"(,"messageId":"[0-9a-f-]{36}")?')


def made(make: Callable[[], bytes | bytearray]) -> bytes | None:
    """Return the JSON of a message without what differs each time, or None if the call is refused."""
    try:
        return MADE_EACH_TIME.sub(b"", bytes(make()), count=1)
    except Exception:  # noqa: BLE001  # the client logs any error as the refusal of the event
        return None


def usually(*values: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for one of these values, and once in a while for anything."""
    return st.integers(0, 11).flatmap(lambda number: st.sampled_from(values) if number else ANYTHING)


PARTS = st.one_of(st.none(), st.dictionaries(NAMES, VALUES.map(lambda pair: pair[0]), max_size=3), usually({}))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    usually("u", "u", " u", " ", "\u200b", "\u00e9", "u\ud800", "u" * 3000, "", None, 5),
    usually("e", "e", "\ud800", "e" * 3000, ""),
    PARTS,
    st.tuples(PARTS, usually(None, "2024-01-02", datetime(2024, 1, 2)), usually(None, "a", 5, " "), PARTS),  # noqa: DTZ001  # without a zone, it is UTC
    st.sampled_from([None, "m", "m\ud800", ""]),
)
@example("u", "e", {"a": 1, "b": [1.5, None, {"c": True}]}, (None,) * 4, None)
@example("u", "e", {"a": "\ud800", "b": "x" * 3000}, ({"ip": "1"}, "2024-01-02", "a", {"All": False}), "m")
@example("u", "e", None, ({"library": 1, "ip": "1"}, datetime(2024, 1, 2, tzinfo=INDIA), 5, {}), None)
@example("u", "e", {}, ({}, None, " ", None), "")
def test_the_fast_path_writes_the_same_bytes(
    user_id: Any, event: Any, properties: Any, others: tuple[Any, ...], message_id: Any
) -> None:
    """What ``track`` sends does not depend on the path, because an option of the client must not change an event."""
    context, timestamp, anonymous_id, integrations = others

    fast = made(
        lambda: build.track(user_id, event, properties, context, timestamp, anonymous_id, integrations, message_id)
    )
    slow = made(
        lambda: wire.from_arguments(
            "track",
            {
                "userId": user_id,
                "event": event,
                "properties": properties,
                "anonymousId": anonymous_id,
                "context": context,
                "timestamp": timestamp,
                "integrations": integrations,
                "messageId": message_id,
            },
        )
    )

    assert fast == slow


CALLS = ("identify", "track", "page", "screen", "group", "alias")
OWN = {
    "identify": ("userId", "traits"),
    "track": ("userId", "event", "properties"),
    "page": ("userId", "category", "name", "properties"),
    "screen": ("userId", "category", "name", "properties"),
    "group": ("userId", "groupId", "traits"),
    "alias": ("previousId", "userId", "traits"),
}
TEXT = usually("u", "u", "e" * 3000, " u", " ", "", "\u00e9", "u\ud800", None, 5)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(CALLS),
    st.fixed_dictionaries(
        dict.fromkeys(("userId", "anonymousId", "groupId", "previousId", "event", "category", "name"), TEXT)
        | dict.fromkeys(("properties", "traits"), PARTS)
    ),
    st.permutations(["userId", "event", "properties", "traits", "groupId", "previousId", "name", "anonymousId"]),
    st.integers(2, 5),
    st.dictionaries(st.sampled_from(["context", "timestamp", "type", "messageId", "x", 5]), ANYTHING, max_size=1),
    st.sampled_from(["arguments", "whole", "whole"]),
)
@example("page", {"userId": "u", "name": None}, ["userId", "name"], 2, {}, "whole")
@example("page", {"userId": "u", "name": ""}, ["name", "userId"], 2, {}, "whole")
@example("track", {"userId": " ", "event": "e"}, ["userId", "event"], 2, {}, "whole")
@example("track", {"userId": "u", "event": "e", "groupId": "g"}, ["groupId", "userId", "event"], 3, {}, "whole")
def test_the_fast_path_of_every_call_writes_the_same_bytes(
    kind: str, values: dict[str, Any], order: list[str], length: int, more: dict[Any, Any], form: str
) -> None:
    """What a call sends does not depend on the path, whether it has arguments or a whole message."""
    if form == "arguments":
        given = {name: values[name] for name in (*OWN[kind], "anonymousId")}
    else:
        whole = {**{name: values[name] for name in order[:length]}, **more}
        given = {**dict.fromkeys((*OWN[kind], "anonymousId")), OWN[kind][0]: whole}

    fast = made(lambda: build.usual(kind, dict(given)) or b"unusual")

    assert fast in (made(lambda: wire.from_arguments(kind, dict(given))), b"unusual")


def test_usual_calls_take_the_fast_path() -> None:
    """A fast path that no call takes would pass every comparison with the slow one."""
    parts = {"n": 1, "price": 19.95, "in": {"list": ["a", None]}}
    for kind, names in OWN.items():
        given = {name: parts if name in ("properties", "traits") else "x" for name in (*names, "anonymousId")}
        for each in (given, {**dict.fromkeys(given), names[0]: {"type": kind, **given}}):
            data = build.usual(kind, each)
            assert data is not None
            assert MADE_EACH_TIME.sub(b"", data) == made(lambda: wire.from_arguments(kind, each))  # noqa: B023  # called at once


WIRE = ("userId", "anonymousId", "event", "properties", "traits", "context", "timestamp", "messageId", "groupId", "x")
CLIENT = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False)
OTHERS = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False, default=repr, context={"a": 1})


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(CALLS),
    st.lists(ANYTHING, max_size=6),
    st.dictionaries(st.sampled_from(["context", "timestamp", "integrations", "message_id", "callback"]), ANYTHING),
    st.booleans(),
    st.sampled_from([CLIENT, OTHERS]),
)
@example("track", [Hostile(), len], {}, True, CLIENT)
@example("track", [Hostile(), Hostile()], {"callback": Hostile()}, False, CLIENT)
@example("identify", [BrokenMapping(), len], {}, True, CLIENT)
def test_no_call_raises_for_any_arguments(
    kind: str, arguments: list[Any], named: dict[str, Any], has_fast_path: bool, client: rudderpipe.Client
) -> None:
    """Each call returns True or False. An accepted event is one strict JSON object with an id."""
    positional = arguments[:2]
    with taken(has_fast_path=has_fast_path) as transport:
        accepted = getattr(client, kind)(*positional, **named)

    assert accepted is True or accepted is False
    assert len(transport.events) == (accepted is True)
    for data in transport.events:
        message = strictly(data)
        assert message["type"] == kind
        assert isinstance(message["messageId"], str)
        assert message.get("userId", message.get("anonymousId")).strip()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CALLS), st.dictionaries(st.sampled_from(WIRE), ANYTHING))
def test_no_call_raises_for_any_whole_message(kind: str, message: dict[str, Any]) -> None:
    """Whole messages have the names of the wire."""
    with taken(has_fast_path=True) as transport:
        accepted = getattr(CLIENT, kind)(message)

    assert accepted is True or accepted is False
    for data in transport.events:
        assert strictly(data)["type"] == kind


def test_a_misspelt_keyword_raises_type_error() -> None:
    """A wrong keyword is a mistake of the program, as with any function."""
    with pytest.raises(TypeError, match="propertys"):
        CLIENT.track("u", "e", propertys={})  # type: ignore[call-overload]  # the mistake


@pytest.mark.parametrize("raw", [b"", b"{", b"NaN", b"[1,]", b'"\xff"', b"\xef\xbb\xbf1", b"1 2", b"[-Infinity]"])
def test_a_raw_value_that_is_no_json_is_refused(raw: bytes) -> None:
    """Such a value would damage the event, and with it the job."""
    with pytest.raises(EventError, match=r"properties\.a\[0\]: is a msgspec\.Raw that is not JSON"):
        build.track("u", "e", {"a": [msgspec.Raw(raw)]}, *[None] * 5)


def test_moments_and_durations_in_arrays_keep_their_unit() -> None:
    """numpy converts nanoseconds to bare numbers unless it is asked for another form."""
    when = np.array(["2024-01-02T03:04:05", "NaT"], dtype="datetime64[ns]")
    data = build.track("u", "e", {"a": when, "b": when - when}, *[None] * 5)

    assert strictly(data)["properties"] == {"a": ["2024-01-02T03:04:05Z", None], "b": ["P0D", None]}
    with pytest.raises(EventError, match="cannot hold"):
        build.track("u", "e", {"a": np.datetime64("30000-01-01", "s")}, *[None] * 5)


def test_a_zone_with_seconds_keeps_the_moment() -> None:
    """An offset in ISO 8601 has no seconds. A moment in local mean time is therefore sent in UTC."""
    zone = timezone(timedelta(minutes=19, seconds=32))
    data = build.track(
        "u", "e", {"a": datetime(1930, 1, 1, tzinfo=zone), "b": time(1), "c": date(1930, 1, 1)}, *[None] * 5
    )

    assert strictly(data)["properties"] == {"a": "1929-12-31T23:40:28Z", "b": "01:00:00", "c": "1930-01-01"}


def test_before_send_loses_no_digit() -> None:
    """A message that ``before_send`` does not change must be the same as without it."""
    given = {
        "a": Decimal("0.12345678901234567890123"),
        "b": 10**30,
        "c": Decimal("1E+400"),
        "d": 0.1,
        "e": uuid.UUID(int=1),
    }
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False, before_send=lambda message: message)
    with taken(has_fast_path=False) as transport:
        client.track("u", "e", given)
        CLIENT.track("u", "e", given)

    assert strictly(transport.events[0])["properties"] == strictly(transport.events[1])["properties"]
