"""The contents of a message, and calls that are refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import rudderpipe
from rudderpipe.errors import EventError
from rudderpipe.messages import build, wire
from rudderpipe.messages.ids import MessageIds
from rudderpipe.process import fork

CALLS: dict[str, Callable[[dict[str, Any]], bytes | bytearray]] = {
    "identify": lambda m: made("identify", userId=m["userId"], traits=m.get("traits"), context=m.get("context")),
    "track": lambda m: build.track(m["userId"], m["event"], m["properties"], None, None, None, None, None),
    "page": lambda m: made(
        "page", userId=m["userId"], category=m["category"], name=m["name"], properties=m["properties"]
    ),
    "screen": lambda m: made(
        "screen", userId=m["userId"], category=m["category"], name=m["name"], properties=m["properties"]
    ),
    "group": lambda m: made("group", userId=m["userId"], groupId=m["groupId"], traits=m["traits"]),
    "alias": lambda m: made("alias", previousId=m["previousId"], userId=m["userId"]),
}


def made(kind: str, **arguments: Any) -> bytes:
    """Return the JSON of a call that is not on the fast path."""
    return wire.from_arguments(kind, arguments)


NOT_COMPARED = {"_metadata", "sentAt", "messageId", "originalTimestamp"}  # what only the Node SDK sends, ids and times


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without the parts that differ between two SDKs and between two moments."""
    kept = {key: value for key, value in message.items() if key not in NOT_COMPARED}
    kept["context"] = {**message["context"], "library": sorted(message["context"]["library"])}
    return kept


@pytest.mark.parametrize("name", [*CALLS, "identify-context-traits-replaced"])
@pytest.mark.parametrize("form", ["arguments", "mapping"])
def test_a_message_is_the_same_as_the_node_sdks(golden: Path, name: str, form: str) -> None:
    """The expected message is what the real Node SDK sent for the same call."""
    recorded = json.loads((golden / f"{name}.json").read_text())
    kind = name.split("-")[0]
    expected = recorded["request"]["body"]["batch"][0]

    data = CALLS[kind](recorded["input"]) if form == "arguments" else made(kind, message=recorded["input"])

    message = json.loads(data)
    assert comparable(expected) == comparable(message)
    assert uuid.UUID(message["messageId"]).version == 4
    assert datetime.now(timezone.utc) - datetime.fromisoformat(
        message["originalTimestamp"].replace("Z", "+00:00")
    ) < timedelta(minutes=1)


def test_a_call_takes_a_whole_message() -> None:
    """``track({...})`` with the names of the wire is the same as keyword arguments. Unknown keys travel too."""
    message = json.loads(build.track({"userId": 42, "event": "x", "extra": 1, "type": "zzz"}, *[None] * 7))

    assert (message["userId"], message["event"], message["extra"], message["type"]) == ("42", "x", 1, "track")


def test_a_message_keeps_the_callers_id_times_and_context() -> None:
    """Only the library in the context is replaced."""
    moment = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    context = {"ip": "14.5.67.21", "library": {"name": "mine"}}

    message = json.loads(build.track("u", "e", None, context, moment, "a", {"All": False}, "my-id"))

    assert message["messageId"] == "my-id"
    assert message["timestamp"] == "2024-01-02T03:04:05Z"
    assert message["integrations"] == {"All": False}
    assert message["anonymousId"] == "a"
    assert message["context"]["ip"] == "14.5.67.21"
    assert message["context"]["library"]["name"] == "rudderpipe"
    assert context == {"ip": "14.5.67.21", "library": {"name": "mine"}}


def test_a_message_has_no_parts_that_were_not_given() -> None:
    """Properties, traits, integrations and timestamp appear only if the caller gives them."""
    assert set(json.loads(build.track("u", "e", *[None] * 6))) == {
        "type",
        "userId",
        "context",
        "channel",
        "originalTimestamp",
        "messageId",
        "event",
    }


def test_alias_has_every_field_of_the_api() -> None:
    """RudderStack's documentation lists traits and an anonymous id for alias too."""
    client = rudderpipe.Client("KEY", "http://127.0.0.1:9", enable=False)

    message = client.preview("alias", "old", "new", traits={"plan": "pro"}, anonymous_id=7)

    assert message is not None
    wanted = {"previousId": "old", "userId": "new", "traits": {"plan": "pro"}, "anonymousId": "7"}
    assert {name: message.get(name) for name in wanted} == wanted
    assert "traits" not in message["context"]


@pytest.mark.parametrize("user_id", [None, "", " ", "\t\n", "\u200b", "\u00a0"])
def test_a_blank_id_is_refused(user_id: str | None) -> None:
    """The server trims ids, and refuses the whole batch if one is empty."""
    with pytest.raises(EventError) as caught:
        build.track(user_id, "e", None, None, None, None, None, None)

    assert caught.value.field == "user_id"


@pytest.mark.parametrize("user_id", ["é", "\u00a0x", "日本", " x"])
def test_an_unusual_id_is_not_changed(user_id: str) -> None:
    """Only a blank id is refused."""
    assert json.loads(build.track(user_id, "e", *[None] * 6))["userId"] == user_id


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("user_id", lambda: build.track(True, "e", None, None, None, None, None, None)),
        ("user_id", lambda: build.track(["u"], "e", None, None, None, None, None, None)),
        ("event", lambda: build.track("u", None, None, None, None, None, None, None)),
        ("event", lambda: build.track("u", 5, None, None, None, None, None, None)),
        ("properties", lambda: build.track("u", "e", [1], None, None, None, None, None)),
        ("context", lambda: build.track("u", "e", None, "c", None, None, None, None)),
        ("timestamp", lambda: build.track("u", "e", None, None, 17, None, None, None)),
        ("integrations", lambda: build.track("u", "e", None, None, None, None, "all", None)),
        ("traits", lambda: made("identify", userId="u", traits="t")),
        ("group_id", lambda: made("group", userId="u", groupId=None)),
        ("previous_id", lambda: made("alias", previousId=None, userId="u")),
        ("user_id", lambda: made("alias", previousId="p", userId=None)),
        ("name", lambda: made("page", userId="u", category=None, name=3)),
        ("userId", lambda: made("track", message={"event": "x"})),
        ("groupId", lambda: made("group", message={"userId": "u"})),
        ("message", lambda: build.track({"userId": "u"}, "e", None, None, None, None, None, None)),
        ("message", lambda: build.track({"userId": "u"}, None, None, None, None, None, None, "id")),
    ],
)
def test_the_error_of_a_wrong_call_names_the_field(field: str, call: Any) -> None:
    """The caller must see which argument is wrong."""
    with pytest.raises(EventError) as caught:
        call()

    assert caught.value.field == field


class Unknown:
    pass


def test_the_error_of_a_value_that_json_cannot_hold_names_its_path() -> None:
    """The error must not show the value itself."""
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for properties, path in (
        ({"items": [1, {"price": Unknown()}]}, "properties.items[1].price"),
        ({"a": cyclic}, "properties.a[0]"),
        ({"s": {Unknown()}}, "properties.s[0]"),
    ):
        with pytest.raises(EventError) as caught:
            build.track("u", "e", properties, None, None, None, None, None)
        assert caught.value.field == path
        assert "Unknown object" not in str(caught.value)


def test_dates_uuids_decimals_sets_and_nan_are_encoded() -> None:
    """The server must be able to read each of them."""
    properties = {
        "when": datetime(2024, 1, 2, tzinfo=timezone.utc),
        "id": uuid.UUID(int=7),
        "price": Decimal("19.95"),
        "nan": float("nan"),
        "tags": {"a"},
    }

    sent = json.loads(build.track("u", "e", properties, None, None, None, None, None))["properties"]

    assert sent == {
        "when": "2024-01-02T00:00:00Z",
        "id": str(uuid.UUID(int=7)),
        "price": 19.95,
        "nan": None,
        "tags": ["a"],
    }


def test_message_ids_never_repeat() -> None:
    """Ids come in families of 4,096. A forked child starts a family of its own."""
    ids = MessageIds()
    first = [ids.new() for _ in range(10_000)]
    ids.forget()
    second = [ids.new() for _ in range(10_000)]

    assert len({*first, *second}) == 20_000
    assert first[0][:33] != second[0][:33]


@pytest.mark.parametrize("name", CALLS)
def test_the_first_id_of_a_forked_child_is_its_own(golden: Path, name: str) -> None:
    """A child must learn that it was forked before it makes an id, not only before it appends."""
    recorded = json.loads((golden / f"{name}.json").read_text())["input"]
    parent = json.loads(CALLS[name](recorded))["messageId"]

    fork.PAGE[0] = 0
    child = json.loads(CALLS[name](recorded))["messageId"]
    fork.PAGE[0] = 0
    grandchild = json.loads(made(name, message=recorded))["messageId"]

    assert len({parent[:33], child[:33], grandchild[:33]}) == 3
