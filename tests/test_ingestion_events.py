"""The events of records: the fast path makes the same events as the general way, and ids are the same in each run."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rudderpipe.ingestion import whole_lines
from rudderpipe.ingestion.block import Block, Position, Reject
from rudderpipe.ingestion.events import Events
from rudderpipe.ingestion.record_ids import ids_of
from rudderpipe.ingestion.source import Source
from rudderpipe.messages.defaults import Defaults
from rudderpipe.messages.processors import shaper_of
from rudderpipe.transports.base import Encoded

EVENTS = Events(Defaults(None, None, None), None)
RECORD_ID = ids_of(Source("x", "x"))

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", " ", "u1", "é", "\ud83d", "\u200b", "x" * 1200, 0, 1.0, False]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
TIMES = ["2026-01-02T03:04:05Z", "2026-01-02", "2026-02-30", "now", 1_700_000_000_000, "", None]
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["track", "identify", "page", "screen", "group", "alias", "tarck", None]),
    "userId": st.sampled_from(["u1", "42", "é", "", " ", 7, 1.5, None, False]),
    "anonymousId": st.sampled_from(["a1", "", None, 3, "\u200b"]),
    "event": st.sampled_from(["Item Viewed", "", None, 5, "é"]),
    "messageId": st.sampled_from(["m1", "", None, 5, True, {}]),
    "properties": st.dictionaries(st.text(max_size=4), VALUES, max_size=4) | SCALARS,
    "traits": st.dictionaries(st.text(max_size=4), VALUES, max_size=4) | SCALARS,
    "context": st.sampled_from([{}, {"ip": "1.2.3.4"}, {"library": {"name": "x"}}, {"traits": 1}, None, "", 5, []]),
    "integrations": st.sampled_from([{"All": True}, {}, None, "x"]),
    "timestamp": st.sampled_from(TIMES),
    "originalTimestamp": st.sampled_from(TIMES),
    "groupId": st.sampled_from(["g", "", 5, None]),
    "previousId": st.sampled_from(["p", ""]),
    "category": st.sampled_from(["c", "", None, 5]),
    "name": st.sampled_from(["n", "", None, 5]),
    "channel": st.sampled_from(["web", None]),
    "sentAt": st.sampled_from(["2026-01-02T03:04:05Z", 5]),
    "writeKey": st.just("KEY"),
}
MESSAGES = st.fixed_dictionaries({}, optional={**USUAL})


def block_of(texts: list[bytes]) -> Block:
    """Return a block with these texts."""
    return Block(texts, range(1, len(texts) + 1), [100 * index for index in range(len(texts))], Position())


def value_of(event: Encoded | Reject) -> Any:
    """Return an event's value or a reject's reason, without the time of the making; equal keys are an error."""
    if isinstance(event, Reject):
        return event.reason

    def strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    assert bytes(event).count(b"\n") == 1  # the mark for sentAt alone
    return json.loads(event, parse_float=Decimal, object_pairs_hook=strict)


def both(texts: list[bytes]) -> tuple[list[Any], list[Any]]:
    """Return the values of the events that are made together, and of those that are made in the general way."""
    block = block_of(texts)
    fast = [value_of(each) for each in EVENTS.of(block, 0, len(texts), RECORD_ID)]
    general = [value_of(EVENTS._of_text(block, index, RECORD_ID)) for index in range(len(texts))]
    for one, other, text in zip(fast, general, texts, strict=True):
        if isinstance(one, dict) and isinstance(other, dict) and b"riginalTimestamp" not in text:
            del one["originalTimestamp"], other["originalTimestamp"]
    return fast, general


@given(st.lists(MESSAGES, min_size=1, max_size=4))
@example([{"type": "identify", "userId": "u", "traits": {}, "originalTimestamp": "2026-01-01T00:00:00Z"}])
@example([{"type": "identify", "userId": "u", "traits": {"a": 1}, "context": {"traits": {"b": 2}}}])
def test_the_fast_path_makes_the_events_of_the_general_way(messages: list[dict[str, Any]]) -> None:
    """Of any messages with the known fields, also wrong ones; a missing time is that of the making."""
    times = "2026-03-04T05:06:07.089Z"
    texts = [
        json.dumps(each if each.get("originalTimestamp") else {**each, "originalTimestamp": times}).encode()
        for each in messages
    ]
    fast, general = both(texts)
    assert fast == general


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"track","userId":"u","event":"e","event":"f"}',
        b'{"type":"track","userId":"u","event":"e","properties":{"a":1,"a":2,"\\u0061":3}}',
        b'{"type":"track","userId":"u","event":"e","properties":{"a":0.12345678901234567890123,"b":1E400,"c":1.0}}',
        b'{"type":"track","userId":"u","event":"e","properties":{"a":' + b"[" * 250 + b"]" * 250 + b"}}",
        b'{"type":"track","userId":"u","event":"e","properties":{"a":' + b"[" * 198 + b"]" * 198 + b"}}",
        b'{"type":"track","userId":"u","event":"e","properties":{"a":"\\ud83d"}}',
        b'{"type":"track","userId":"u","event":"e","properties":{"a":NaN}}',
        b'{"type":"track","userId":"u","event":"e","properties":{"a":"' + b"x" * 200_000 + b'"}}',
        b'{"type":"track","userId":"u","event":"e","properties":{"a":"' + b"\\u0001" * 2_000 + b'"}}',
        b'{"type":"track","userId":"u","event":"e"}{"type":"track","userId":"u","event":"e"}',
        b'{"type":"track","userId":"u",\n"event":"e"}',
        b'{"type":"track","userId":"u","event":"e"',
        b'{"type":"track","userId":"u","event":"e"} ',
        b'"userId":"v"}',
        b"[1]",
        b'{"a":"\xff"}',
    ],
)
def test_unusual_texts_go_the_general_way(text: bytes) -> None:
    """Alone, and between usual neighbours, which stay what they are."""
    usual = b'{"type":"track","userId":"u","event":"e","originalTimestamp":"2026-03-04T05:06:07.089Z"}'
    fast, general = both([usual, text, usual])
    assert fast == general
    assert fast[0] == {**fast[2], "messageId": fast[0]["messageId"]}


def test_a_usual_message_takes_the_fast_path() -> None:
    """Otherwise nothing here would be tested."""
    text = json.dumps(
        {
            "type": "track",
            "userId": "u",
            "event": "e",
            "messageId": "m",
            "timestamp": "2026-01-01T00:00:00.000Z",
            "properties": {"a": [1, {"b": None}]},
            "context": {"ip": "1.2.3.4"},
        }
    ).encode()
    [whole] = whole_lines.decoded([text])
    assert whole is not None
    assert whole_lines.event_of(whole, text) is not None


@pytest.mark.parametrize("message_id", ["", None, True, {}, []])
def test_a_record_without_a_usable_id_has_the_same_id_in_each_run(message_id: Any) -> None:
    """The id depends on the record and its place."""
    text = json.dumps({"type": "track", "userId": "u", "event": "e", "messageId": message_id}).encode()

    def ids() -> list[str]:
        made = EVENTS.of(block_of([text, text]), 0, 2, RECORD_ID)
        return [value_of(each)["messageId"] for each in made]

    assert ids() == ids() == [RECORD_ID(0, text), RECORD_ID(100, text)]


def test_what_a_client_adds_and_drops_is_as_in_a_call() -> None:
    """Defaults and ``before_send`` see each message."""

    def before_send(message: dict[str, Any]) -> dict[str, Any] | None:
        return None if message["userId"] == "v" else {**message, "seen": True}

    make: Callable[..., Events] = Events
    events = make(Defaults({"app": "shop"}, None, None), shaper_of(None, 1.0, (before_send,), None))
    texts = [b'{"type":"track","userId":"%b","event":"e"}' % user for user in (b"u", b"v")]

    kept, dropped = events.of(block_of(texts), 0, 2, RECORD_ID)

    assert (value_of(kept)["seen"], value_of(kept)["context"]["app"]) == (True, "shop")
    assert isinstance(dropped, Reject)
    assert "before_send" in dropped.reason


@pytest.mark.parametrize(
    ("field", "name", "rest"),
    [
        ("userId", "user_id", {"type": "track", "event": "e"}),
        ("anonymousId", "anonymous_id", {"type": "track", "event": "e"}),
        ("groupId", "group_id", {"type": "group", "userId": "u"}),
    ],
)
def test_the_reject_of_a_misspelt_field_says_how_to_map_it(field: str, name: str, rest: dict[str, Any]) -> None:
    """The file need not be written anew. All such records have one reason."""
    first, second = (
        EVENTS.of(block_of([json.dumps({name: each, **rest}).encode()]), 0, 1, RECORD_ID)[0] for each in ("a", "b")
    )

    assert isinstance(first, Reject)
    assert isinstance(second, Reject)
    assert first.kind == second.kind
    assert first.reason.endswith(f"{name} is no field of a message, did you mean {field}? (--map {field}={name})")
