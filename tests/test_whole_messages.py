"""Whole messages, which are checked no more than the Node SDK checks them; the arguments of a call are checked more."""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

import pytest

from rudderpipe import Client, EventError, Scrubber
from rudderpipe.errors import EventTooLarge
from rudderpipe.messages import wire

URL = "http://127.0.0.1:9"
CLIENTS = {
    "plain": Client("KEY", URL, enable=False),
    "before_send": Client("KEY", URL, enable=False, before_send=lambda message: message),
    "scrubber": Client("KEY", URL, enable=False, scrubber=Scrubber()),
    "sampling": Client("KEY", URL, enable=False, sample_events={"track": 1.0}, sample_users=1.0),
    "default": Client("KEY", URL, enable=False, default=str),
}
UUID = uuid.UUID(int=7)
FALSY = [None, False, 0, 0.0, ""]


def sent(kind: Any, message: dict[str, Any], client: Client = CLIENTS["plain"]) -> dict[str, Any]:
    """Return what a client would send."""
    found = client.preview(kind, message)
    assert found is not None
    return found


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("value", [[], [1], "text", "", 7, False, None, {}], ids=repr)
def test_properties_and_traits_may_have_any_type(client: Client, value: Any) -> None:
    """The server takes them, so the event is not lost for their shape, whatever else the client does with events."""
    track = sent("track", {"userId": "u", "event": "e", "properties": value, "traits": value}, client)
    identify = sent("identify", {"userId": "u", "traits": value}, client)

    assert track["properties"] == track["traits"] == identify["traits"] == value
    is_missing = value is None or (not isinstance(value, (list, dict)) and not value)
    assert identify["context"].get("traits", "missing") == ("missing" if is_missing else value)


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("value", FALSY, ids=repr)
def test_a_falsy_field_is_missing_and_sent_as_it_is(client: Client, value: Any) -> None:
    """The Node SDK does not check a falsy field, and sends every one except the context."""
    given = {"userId": "u", "event": value, "name": value, "category": value, "integrations": value, "context": value}

    message = sent("page", given, client)

    assert [message[name] for name in ("event", "name", "category", "integrations")] == [value] * 4
    assert list(message["context"]) == ["library"]
    with pytest.raises(EventError, match="event: is missing"):
        client.preview("track", given)


def test_nan_is_falsy_too() -> None:
    """JSON has no NaN, so it is null."""
    given = {"userId": "u", **dict.fromkeys(("event", "name", "integrations", "context", "properties"), math.nan)}

    message = sent("page", given)

    assert [message[name] for name in ("event", "name", "integrations", "properties")] == [None] * 4
    with pytest.raises(EventError, match="event: is missing"):
        wire.from_arguments("track", {"": {"userId": "u", "event": math.nan}})


@pytest.mark.parametrize("value", FALSY, ids=repr)
def test_a_falsy_context_leaves_that_of_the_client(value: Any) -> None:
    """The same holds for the integrations, but only in a whole message."""
    client = Client("KEY", URL, enable=False, context={"app": "shop"}, integrations={"All": True})

    message = sent("track", {"userId": "u", "event": "e", "context": value, "integrations": value}, client)

    assert (message["context"]["app"], message["integrations"]) == ("shop", {"All": True})
    if value is not None:
        with pytest.raises(EventError, match="context: must be a mapping"):
            client.preview("track", "u", "e", context=value)


@pytest.mark.parametrize("name", ["context", "integrations", "name", "category", "event"])
@pytest.mark.parametrize("value", [True, 7, [1], {"a"}], ids=repr)
def test_a_field_of_a_wrong_type_is_refused(name: str, value: Any) -> None:
    """The Node SDK throws for them."""
    with pytest.raises(EventError) as caught:
        CLIENTS["plain"].preview("page", {"userId": "u", name: value})
    assert caught.value.field == name


@pytest.mark.parametrize("name", ["properties", "traits"])
@pytest.mark.parametrize("value", [[], "text", 7, False], ids=repr)
def test_an_argument_must_be_a_mapping(name: str, value: Any) -> None:
    """A list in the place of the properties is a mistake that a caller in Python wants to see."""
    with pytest.raises(EventError, match=f"{name}: must be a mapping"):
        CLIENTS["plain"].preview("group" if name == "traits" else "track", "u", "e", **{name: value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("mine", "mine"), (" ", " "), (7, "7"), (1.5, "1.5"), (uuid.UUID(int=7), str(uuid.UUID(int=7)))],
)
def test_a_message_id_is_text(value: Any, expected: str) -> None:
    """The server replaces an id that is a number, and could not recognise a repeated event."""
    assert sent("identify", {"userId": "u", "messageId": value})["messageId"] == expected


@pytest.mark.parametrize(
    "value", [*FALSY, math.nan, math.inf, True, [], [1], {"a": 1}, pytest.param(object(), id="object")]
)
def test_a_message_id_that_the_server_would_replace_is_replaced_here(value: Any) -> None:
    """The server's own id would be another one at each attempt, so a repeated event would be another event."""
    assert uuid.UUID(sent("identify", {"userId": "u", "messageId": value})["messageId"]).version == 4


def test_a_message_id_that_is_too_large_is_refused_as_an_event_that_is_too_large() -> None:
    """The caller's id is not replaced for its length."""
    with pytest.raises(EventTooLarge):
        CLIENTS["plain"].preview("identify", {"userId": "u", "messageId": "x" * 5_000_000})


def test_only_the_users_ids_must_not_be_blank() -> None:
    """The server requires no other id, and takes a blank one."""
    assert sent("group", {"userId": "u", "groupId": " "})["groupId"] == " "
    assert sent("alias", {"userId": "u", "previousId": " "})["previousId"] == " "
    with pytest.raises(EventError, match="groupId: is missing"):
        CLIENTS["plain"].preview("group", {"userId": "u", "groupId": ""})


@pytest.mark.parametrize("value", [None, False, ""], ids=repr)
def test_a_falsy_id_is_missing_beside_the_other_one(value: Any) -> None:
    """The event has a user, so it is not lost."""
    message = json.loads(wire.from_arguments("page", {"": {"userId": value, "anonymousId": "a"}}))

    assert (message.get("userId"), message["anonymousId"]) == (None, "a")


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        ("track", {"user_id": "u", "event": "e"}, "user_id is no field of a message, did you mean userId?"),
        ("track", {"UserID": "u", "event": "e"}, "UserID is no field of a message, did you mean userId?"),
        (
            "track",
            {"anonymous_id": "a", "event": "e"},
            "anonymous_id is no field of a message, did you mean anonymousId?",
        ),
        ("group", {"userId": "u", "group-id": "g"}, "group-id is no field of a message, did you mean groupId?"),
        (
            "alias",
            {"userId": "u", "previous_id": "p"},
            "previous_id is no field of a message, did you mean previousId?",
        ),
        ("track", {"userId": "u", "Event": "e"}, "Event is no field of a message, did you mean event?"),
    ],
)
def test_a_missing_field_that_is_only_misspelt_is_named(kind: Any, message: dict[str, Any], hint: str) -> None:
    """Names in Python's spelling are the most usual mistake."""
    with pytest.raises(EventError) as caught:
        CLIENTS["plain"].preview(kind, message)

    assert str(caught.value).endswith(f"; {hint}")


@pytest.mark.parametrize("message", [{"userId": " ", "user_id": "u", "event": "e"}, {"user": "u", "event": "e"}])
def test_the_error_of_another_missing_field_names_no_other_key(message: dict[str, Any]) -> None:
    """A key that means something else may hold anything."""
    with pytest.raises(EventError) as caught:
        CLIENTS["plain"].preview("track", message)

    assert str(caught.value).endswith("one of them must be given")
