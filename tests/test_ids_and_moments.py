"""Values that are ids and moments, in every call, wire form and drop-in. Errors name the field of any other value."""

from __future__ import annotations

import enum
import json
import math
import os
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rudderpipe
from rudderpipe.compat import rudderstack, segment
from rudderpipe.errors import EventError
from rudderpipe.messages import build, wire
from rudderpipe.testing import capture

UTC = timezone.utc
CLIENT = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False)
STRICT = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False, strict=True)


def shown(value: object) -> str:
    """Return a test id for a value that is the same in each run."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class User(enum.Enum):
    ANN = "ann"
    NUMBER = 7


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


class NoOffset(tzinfo):
    """A zone that knows no offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


IDS: dict[str, Callable[[Any], tuple[str, bytes | bytearray]]] = {
    "user_id": lambda value: ("userId", build.track(value, "e", *[None] * 6)),
    "anonymous_id": lambda value: ("anonymousId", build.track(None, "e", None, None, None, value, None, None)),
    "group_id": lambda value: ("groupId", wire.from_arguments("group", {"userId": "u", "groupId": value})),
    "previous_id": lambda value: ("previousId", wire.from_arguments("alias", {"previousId": value, "userId": "u"})),
    "message_id": lambda value: ("messageId", build.track("u", "e", None, None, None, None, None, value)),
    "userId": lambda value: ("userId", build.track({"userId": value, "event": "e"}, *[None] * 7)),
    "anonymousId": lambda value: ("anonymousId", build.track({"anonymousId": value, "event": "e"}, *[None] * 7)),
    "groupId": lambda value: ("groupId", wire.from_arguments("group", {"": {"userId": "u", "groupId": value}})),
    "previousId": lambda value: (
        "previousId",
        wire.from_arguments("alias", {"": {"userId": "u", "previousId": value}}),
    ),
}


@pytest.mark.parametrize("field", IDS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("u", "u"),
        (Text("u"), "u"),
        ("u\ud800", "u\ufffd"),
        (5, "5"),
        (5.0, "5"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (1e21, "1e+21"),
        (1e-7, "1e-7"),
        (123456789012345680000.0, "123456789012345680000"),
        (2**70, str(2**70)),
        (np.int64(5), "5"),
        (np.float64(5), "5"),
        (np.str_("u"), "u"),
        (Decimal(5), "5"),
        (Decimal("19.95"), "19.95"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (User.ANN, "ann"),
        (User.NUMBER, "7"),
    ],
    ids=shown,
)
def test_an_id_becomes_text(field: str, value: Any, expected: str) -> None:
    """Numbers are written as the Node SDK writes them, in every argument and key."""
    wire_name, data = IDS[field](value)

    assert json.loads(data)[wire_name] == expected


@pytest.mark.parametrize("field", IDS)
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        np.float64("nan"),
        Decimal("NaN"),
        Decimal("Infinity"),
        True,
        np.bool_(True),
        ["u"],
        b"u",
        date(2024, 1, 2),
        np.datetime64("2024-01-02"),
        object(),
    ],
    ids=shown,
)
def test_a_value_that_is_no_id_is_refused(field: str, value: Any) -> None:
    """Rows of a data frame without an id would otherwise become one user "nan"."""
    with pytest.raises(EventError) as caught:
        IDS[field](value)

    assert caught.value.field == field


@pytest.mark.parametrize("value", [pd.NA, pd.NaT, None, " ", "\u200b"], ids=shown)
def test_a_missing_value_is_no_id(value: Any) -> None:
    """The event may have another id instead."""
    assert "userId" not in json.loads(build.track(value, "e", None, None, None, "a", None, None))


MOMENTS: dict[str, Callable[[Any], tuple[str, bytes | bytearray]]] = {
    "timestamp": lambda value: ("timestamp", build.track("u", "e", None, None, value, None, None, None)),
    "wire timestamp": lambda value: (
        "timestamp",
        build.track({"userId": "u", "event": "e", "timestamp": value}, *[None] * 7),
    ),
    "wire originalTimestamp": lambda value: (
        "originalTimestamp",
        wire.from_arguments("identify", {"": {"userId": "u", "originalTimestamp": value}}),
    ),
}
EARLY = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
WRITTEN = "2024-01-02T03:04:05Z"


@pytest.mark.parametrize("field", MOMENTS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (EARLY, WRITTEN),
        (EARLY.replace(tzinfo=None), WRITTEN),
        (EARLY.replace(tzinfo=NoOffset()), WRITTEN),
        (EARLY.astimezone(timezone(timedelta(hours=2))), "2024-01-02T05:04:05+02:00"),
        (date(2024, 1, 2), "2024-01-02T00:00:00Z"),
        (1704164645000, WRITTEN),
        (1704164645000.0, WRITTEN),
        (np.int64(1704164645000), WRITTEN),
        (np.datetime64("2024-01-02T03:04:05"), WRITTEN),
        (np.datetime64("2024-01-02T03:04:05", "ns"), WRITTEN),
        (pd.Timestamp("2024-01-02T03:04:05"), WRITTEN),
        (pd.Timestamp("2024-01-02T03:04:05", tz="UTC"), WRITTEN),
        *((text, text) for text in ("2024-01-02T03:04:05Z", "2024-01-02", "2024-02-29T00:00:00.123456789+05:30")),
        *((text, text) for text in ("2024-01-02 03:04:05", "2024-01-02T03:04", "2024-01-02T03:04:05-0800")),
        (Text("2024-01-02"), "2024-01-02"),
    ],
    ids=shown,
)
def test_a_moment_is_written_so_that_the_server_reads_it(field: str, value: Any, expected: str) -> None:
    """ISO 8601 text stays as it is."""
    wire_name, data = MOMENTS[field](value)

    assert json.loads(data)[wire_name] == expected


@pytest.mark.parametrize("field", MOMENTS)
@pytest.mark.parametrize(
    "value",
    [
        *("not a date", "2020-13-45", "2023-02-29", "  ", "2024-01-02T25:00:00Z", "2024-01-02T03:04:05+24:00", "now"),
        *(
            "2024-01-02T03:04:05Z\n",
            "\u0662\u0660\u0662\u0664-01-02",
            "2024-1-2",
            "20240102",
            "1704164645000",
            "2024-01-02T03:04:60Z",
        ),
        *(17, 1704164645, math.nan, math.inf, True, [], {}, ["2024-01-02"], object(), timedelta(1), b"2024-01-02"),
        *(pd.NaT, np.datetime64("NaT", "s"), np.timedelta64(1, "s"), Decimal(1704164645000)),
    ],
    ids=shown,
)
def test_a_value_that_is_no_moment_is_refused(field: str, value: Any) -> None:
    """The server would silently date the event by its receipt."""
    with pytest.raises(EventError) as caught:
        MOMENTS[field](value)

    assert caught.value.field == field.split()[-1]
    with capture(strict=False) as captured:
        assert CLIENT.track("u", "e", timestamp=value) is False
        with pytest.raises(EventError):
            STRICT.track("u", "e", timestamp=value)
    assert captured.refused == {"invalid": 2}
    assert not captured


@pytest.mark.parametrize("value", [None, "", 0, False], ids=shown)
def test_falsy_times_and_ids_of_a_whole_message_are_left_out(value: Any) -> None:
    """The Node SDK does the same."""
    given = {"userId": "u", "event": "e", "timestamp": value, "originalTimestamp": value, "messageId": value}
    message = json.loads(build.track(given, *[None] * 7))

    assert "timestamp" not in message
    assert datetime.now(UTC) - datetime.fromisoformat(message["originalTimestamp"].replace("Z", "+00:00")) < timedelta(
        minutes=1
    )
    assert uuid.UUID(message["messageId"]).version == 4


@pytest.mark.parametrize("sdk", [rudderstack, segment])
def test_the_drop_ins_refuse_values_that_are_no_ids_or_moments(sdk: Any) -> None:
    """The user "nan" would be a wrong one, so a drop-in returns ``(False, message)``. Numbers are spelt as the original
    SDK spells them."""
    client = sdk.Client("KEY", "http://127.0.0.1:9", send=False)
    nan = math.nan
    with capture(strict=False) as captured:
        results = [
            client.track(nan, "e"),
            client.track(True, "e"),
            client.track("u", "e", anonymous_id=Decimal("NaN")),
            client.group("u", nan),
            client.alias(math.inf, "u"),
            client.track("u", "e", message_id=nan),
            client.track("u", "e", timestamp=pd.NaT),
            client.track(5.0, "e", timestamp=EARLY.replace(tzinfo=NoOffset())),
        ]

    assert [accepted for accepted, _ in results] == [False] * 7 + [True]
    assert (captured[0]["userId"], captured[0]["timestamp"]) == ("5.0", "2024-01-02T03:04:05+00:00")


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"timestamp": "yesterday"}, "timestamp"), ({"userId": math.nan}, "userId"), ({"messageId": ""}, "messageId")],
)
def test_before_send_cannot_set_wrong_ids_or_moments(changed: dict[str, Any], field: str) -> None:
    """The server could not read such a message, wherever the value comes from."""
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False, before_send=lambda m: {**m, **changed})
    with capture() as captured:
        with pytest.raises(EventError) as caught:
            client.track("u", "e")
        assert not captured

    assert caught.value.field == field


def test_before_send_can_set_ids_and_moments_as_a_call_can() -> None:
    """Numbers become text. ``sentAt`` is removed, because only the sender sets it."""
    changed = {"userId": 5.0, "timestamp": EARLY, "sentAt": "x"}
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False, before_send=lambda m: {**m, **changed})
    with capture() as captured:
        assert client.track("u", "e")

    assert captured[0]["userId"] == "5"
    assert captured[0]["timestamp"] == WRITTEN
    assert "sentAt" not in captured[0]


def test_default_does_not_see_ids_and_moments() -> None:
    """``default`` serves only values of unknown types in parts of the message."""
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False, default=repr)
    with capture() as captured:
        client.track({"userId": Decimal(5), "event": "e", "timestamp": EARLY, "properties": {"a": 1j}})
        client.track(uuid.UUID(int=7), "e", {"a": 1j}, timestamp=EARLY)

    assert [message["userId"] for message in captured] == ["5", "00000000-0000-0000-0000-000000000007"]
    assert [message["timestamp"] for message in captured] == [WRITTEN, WRITTEN]
    assert [message["properties"] for message in captured] == [{"a": "1j"}] * 2


def whole_track() -> object:
    """Make a usual whole message of ``track``."""
    return build.whole_track({"type": "track", "userId": "u", "event": "e", "properties": {}})


@pytest.mark.parametrize("make", [wire.message_ids.new, whole_track])
def test_ids_go_on_after_an_exception_of_a_signal_handler(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]
) -> None:
    """Such as a time limit of Celery, between two families of ids. All later events would be refused."""

    def interrupted(_size: int) -> bytes:
        raise KeyboardInterrupt

    wire.message_ids.forget()
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make()

    assert make()
    assert make()
