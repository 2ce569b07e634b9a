"""The JSON of each kind of value, and the path in the error of a value that has none."""

from __future__ import annotations

import collections
import dataclasses
import enum
import ipaddress
import json
import math
import pathlib
import types
import uuid
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rudderpipe
from rudderpipe.encoder import encode
from rudderpipe.errors import EventError
from rudderpipe.messages import build, wire
from rudderpipe.messages.encode import plain
from rudderpipe.testing import capture

INDIA = timezone(timedelta(hours=5, minutes=30))
ZONELESS = datetime.fromisoformat("2024-01-02T03:04:05.000006")
WRITTEN = "2024-01-02T03:04:05.000006Z"


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    """A text like Django's SafeString."""

    __slots__ = ()


class Day(date):
    pass


class Length(timedelta):
    pass


@dataclasses.dataclass
class Point:
    x: Any
    y: int = 2


@attrs.define
class Item:
    price: Any
    _hidden: int = 1


class Renamed(msgspec.Struct, rename="camel", tag="renamed"):
    first_name: str
    at: Any = None


class Model(pydantic.BaseModel):
    when: datetime
    tags: set[str] = {"a"}


class Hostile:
    """An object that raises at every access."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("s3cret")

    def __iter__(self) -> Iterator[int]:
        raise ValueError("s3cret")


class BrokenZone(tzinfo):
    """A zone that raises when it is asked for its offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise ZeroDivisionError

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


def written(value: Any, **arguments: Any) -> Any:
    """Return the value as the data plane reads it, the same at the top and inside other containers."""
    data = build.track("u", "e", {"top": value, "in": [{"a": (value,)}]}, *[None] * 5, **arguments)
    properties = json.loads(data, parse_constant=_no_json)["properties"]
    assert [properties["top"]] == properties["in"][0]["a"]
    return properties["top"]


def _no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2024, 1, 2, 3, 4, 5, 6, timezone.utc), WRITTEN),
        (ZONELESS, WRITTEN),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=INDIA), "2024-01-02T03:04:05+05:30"),
        (date(2024, 1, 2), "2024-01-02"),
        (Day(2024, 1, 2), "2024-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(days=1), "P1D"),
        (Length(days=1), "P1D"),
        (Decimal("19.95"), 19.95),
        (Decimal("1E+5"), 1e5),
        (Decimal("NaN"), None),
        (Decimal("-Infinity"), None),
        (Decimal("sNaN"), None),
        (math.nan, None),
        (-math.inf, None),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Colour.RED, "red"),
        (Colour.PAIR, [1, 2]),
        (Level.HIGH, 3),
        (Name("text"), "text"),
        (Point(ZONELESS), {"x": WRITTEN, "y": 2}),
        (Point(Name("x")), {"x": "x", "y": 2}),
        (Item(Decimal("1.5")), {"price": 1.5}),
        (Renamed("Ann", ZONELESS), {"type": "renamed", "firstName": "Ann", "at": WRITTEN}),
        (Model(when=ZONELESS), {"when": WRITTEN, "tags": ["a"]}),
        ({1}, [1]),
        (frozenset(("a",)), ["a"]),
        ((1, (2,)), [1, [2]]),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (b"ab", "YWI="),
        (bytearray(b"ab"), "YWI="),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (np.int64(3), 3),
        (np.float64(1.5), 1.5),
        (np.float64("nan"), None),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.datetime64("2024-01-02T03:04:05.000006"), WRITTEN),
        (np.datetime64("NaT", "s"), None),
        (pd.Timestamp(ZONELESS), WRITTEN),
        (pd.NaT, None),
        (pd.NA, None),
        (pd.Series([1, 2]), [1, 2]),
        (pd.Timedelta(days=1), "P1D"),
        (2**64, 2**64),
        (-(10**30), -(10**30)),
        ("a\ud800b", "a\ufffdb"),
        ({"\udfff": "\ud800"}, {"\ufffd": "\ufffd"}),
        ({None: 1, True: 2, 3: 4, uuid.UUID(int=7): 5}, {"null": 1, "true": 2, "3": 4, str(uuid.UUID(int=7)): 5}),
        ("2024-01-02T03:04:05", "2024-01-02T03:04:05"),
        ("NaN", "NaN"),
        (["Infinity", {"NaN": "-Infinity"}], ["Infinity", {"NaN": "-Infinity"}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_becomes_this_json(value: Any, expected: Any) -> None:
    """The JSON is the same at any depth."""
    assert written(value) == expected


def cyclic() -> list[Any]:
    """Return a list that contains itself."""
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def deep(depth: int) -> list[Any]:
    """Return lists within lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({"items": [1, {"price": object()}]}, "properties.v.items[1].price", "type object, which JSON cannot hold"),
        (cyclic(), "properties.v[1].again", "refers to itself"),
        (deep(20_000), "properties.v" + "[0]" * 36 + "…", "is nested more than 200 levels deep"),
        (10**5000, "properties.v", "an integer of more than 4,300 digits"),
        ({(1, 2): 3}, "properties.v", "has a key of type tuple"),
        (Point(object()), "properties.v.x", "type object"),
        (Item(object()), "properties.v.price", "type object"),
        (Renamed("a", object()), "properties.v.at", "type object"),
        ((number for number in range(3)), "properties.v", "type generator"),
        (datetime(2024, 1, 2, tzinfo=BrokenZone()), "properties.v", "type datetime, and raises ZeroDivisionError"),
        ([time(1, tzinfo=BrokenZone())], "properties.v[0]", "type time, and raises ZeroDivisionError"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=5))), "properties.v", "and raises OverflowError"),
        (Hostile(), "properties.v", "type Hostile, and raises ValueError when it is read"),
        (pd.DataFrame({"a": [1]}), "properties.v", "type DataFrame"),
        (print, "properties.v", "type builtin_function_or_method"),
        (1j, "properties.v", "type complex"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_json_is_refused_by_its_path(value: Any, field: str, reason: str) -> None:
    """Such a value must be neither left out silently nor shown."""
    with pytest.raises(EventError) as caught:
        build.track("u", "e", {"v": value}, *[None] * 5)

    assert caught.value.field == field
    assert reason in caught.value.reason
    assert "s3cret" not in str(caught.value)


def nested_dicts(depth: int) -> dict[str, Any]:
    """Return this many dicts, each within the one before."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def called_from(frames: int, call: Callable[[], Any]) -> Any:
    """Make the call this many frames further down the stack."""
    return called_from(frames - 1, call) if frames else call()


@pytest.mark.parametrize("with_hint", [None, "NaN", ZONELESS, {1}], ids=["plain", "text", "datetime", "set"])
def test_the_limit_of_depth_does_not_depend_on_other_values(with_hint: Any) -> None:
    """200 containers within each other are sent, also from deep within an application. 201 are refused."""
    deepest = {"a": nested_dicts(199), "b": with_hint}

    data = called_from(700, lambda: build.track("u", "e", deepest, *[None] * 5))
    with pytest.raises(EventError, match="nested more than 200 levels deep"):
        build.track("u", "e", {"a": nested_dicts(200), "b": with_hint}, *[None] * 5)

    assert json.loads(data)["properties"]["a"] == nested_dicts(199)


@pytest.mark.parametrize("length", [1, 5000])
def test_traits_may_be_as_deep_as_properties(length: int) -> None:
    """Traits stand in the context too, one level deeper. The limit is the same on both paths."""
    traits = {"a": nested_dicts(199), "b": "x" * length}
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False, before_send=lambda message: message)

    assert json.loads(wire.from_arguments("identify", {"userId": "u", "traits": traits}))["context"]["traits"] == traits
    assert (
        json.loads(wire.from_arguments("identify", {"": {"userId": "u", "traits": traits}}))["context"]["traits"]
        == traits
    )
    with capture() as captured:
        assert client.identify("u", traits)
        with pytest.raises(EventError, match="nested more than 200 levels deep"):
            client.identify("u", {"a": traits})
    assert captured[0]["traits"] == traits


def test_a_container_in_two_places_counts_its_depth_in_each() -> None:
    """The copy of the first place must not serve for a deeper place."""
    shared = nested_dicts(150)
    chain: Any = shared
    for _ in range(60):
        chain = [chain]

    with pytest.raises(EventError, match="nested more than 200 levels deep"):
        build.track("u", "e", {"a": shared, "b": chain}, *[None] * 5)


def test_default_is_called_only_for_unknown_types() -> None:
    """``default`` works as that of ``json.dumps``. The result is encoded as any value, and ``TypeError`` means that
    ``default`` does not know the type."""
    asked: list[Any] = []

    def default(value: Any) -> Any:
        asked.append(value)
        if isinstance(value, complex):
            return {"re": value.real, "at": ZONELESS}
        raise TypeError

    made = plain({"a": 1j, "b": Decimal(1), "c": [Name("x")], "d": ZONELESS}, "properties", default)

    assert json.loads(encode(made)) == {"a": {"re": 0.0, "at": WRITTEN}, "b": 1, "c": ["x"], "d": WRITTEN}
    assert asked == [1j, "x"]
    with pytest.raises(EventError, match=r"properties\.a: is of type object"):
        plain({"a": object()}, "properties", default)


def test_properties_may_be_a_model() -> None:
    """Every value that becomes a mapping is allowed. A list is not."""
    for properties in (Point(1), Item(1), Model(when=ZONELESS), types.MappingProxyType({"a": 1})):
        assert isinstance(json.loads(build.track("u", "e", properties, *[None] * 5))["properties"], dict)
    with pytest.raises(EventError, match="properties: must be a mapping, not list"):
        build.track("u", "e", [("a", 1)], *[None] * 5)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.sampled_from(["T12:00:00", "NaN", "Infinity", "2024-01-02T03:04:05"]),
    st.decimals(),
    st.datetimes(),
    st.datetimes(timezones=st.just(INDIA)),
    st.uuids(),
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@pytest.mark.slow
@given(st.dictionaries(st.text(), TREES, max_size=4), st.text(min_size=1, max_size=60), st.booleans())
def test_random_trees_become_json_with_zones(properties: dict[str, Any], user: str, with_context: bool) -> None:
    """The fast path and the walk of values write the same, and every datetime has a zone."""
    context = {"seen": ZONELESS} if with_context else None
    try:
        data = build.track("u" + user, "T", properties, context, *[None] * 4)
    except EventError:
        return
    message = json.loads(data, parse_constant=_no_json)

    assert message["properties"] == json.loads(encode(plain(properties, "properties")))
    if with_context:
        assert message["context"]["seen"] == WRITTEN
