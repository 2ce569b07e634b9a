"""The mark at which the sender inserts ``sentAt``."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest

from rudderpipe.compat.messages import completed
from rudderpipe.delivery import request
from rudderpipe.encoder import MARK
from rudderpipe.events.marked import MarkedEvents, marked
from rudderpipe.messages import build, processors, wire
from rudderpipe.queue import job

NOW = "2026-11-23T10:00:00.000Z"
KINDS: dict[str, dict[str, Any]] = {
    "identify": {"traits": {"plan": "pro"}},
    "track": {"event": "e", "properties": {"a": {"b": [1.5, None]}}},
    "page": {"name": "n"},
    "screen": {"name": "n"},
    "group": {"groupId": "g"},
    "alias": {"previousId": "p"},
}


def messages() -> list[bytes]:
    """Return a message of every way in which this package makes one."""
    raw = msgspec.Raw(b'{"a":\n[1,\n2]\n}')
    made = [wire.from_fields(kind, {"userId": "u", **fields}) for kind, fields in KINDS.items()]
    whole = {"userId": "u", "event": "e", "sentAt": "old", "properties": {"raw": raw, "sentAt": "kept"}, "more": raw}
    return [
        *made,
        bytes(build.track("u", "line\nfeed", {"a": "\n"}, *[None] * 5)),
        bytes(build.track("u", "e", {"large": "x" * 5000}, *[None] * 5)),
        bytes(build.track("u", "half \ud800", None, *[None] * 5)),
        wire.from_arguments("track", {"whole": whole}),
        wire.from_fields("track", {"userId": "u", "event": "e", "properties": {"large": "x" * 5000}}),
        wire.encoded({"type": "track", "channel": "server", "messageId": "m", "userId": "u"}),
    ]


def with_sent_at(events: list[bytes]) -> list[dict[str, Any]]:
    """Return the events with the field, made one by one."""
    return [{**json.loads(event), "sentAt": NOW} for event in events]


def filled(text: bytes) -> list[Any] | None:
    """Return the events of a text as they are sent; None without marks."""
    events = marked(text)
    found: list[Any] | None = None if events is None else json.loads(b"[%b]" % events.with_sent_at(NOW.encode()))
    return found


def test_every_message_has_one_mark() -> None:
    """Batches of our events need no work for each event in the sender."""
    events = messages()

    assert [event.count(MARK) for event in events] == [1] * len(events)
    assert filled(b",".join(events)) == with_sent_at(events)


def test_events_of_before_send_and_of_a_drop_in_have_the_mark() -> None:
    """They are encoded in other ways than a usual event."""
    shaper = processors.shaper_of(None, 1.0, (lambda message: message,), None)
    assert shaper is not None
    given: dict[str, Any] = {"type": "track", "context": {}, "timestamp": None, "integrations": None, "messageId": None}
    complete = completed({**given, "userId": "u", "event": "e"}, {}, wire.LIBRARY_PART)

    shaped = shaper.shape(messages()[0])
    events = [shaped or b"", wire.encoded(complete, wire.ARGUMENT_NAMES)]

    assert [event.count(MARK) for event in events] == [1, 1]


def test_a_mark_at_any_other_place_is_never_replaced_wrongly() -> None:
    """Another program, an earlier version or damage may put line feeds anywhere."""
    plain = [b'{"a":{"b":[1,{"c":"d"}]},"e":2}', b'{"f":true,"g":"h"}']
    text = b",".join(plain)
    seen = 0
    for first, second in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        odd = text[:first] + MARK + text[first:second] + MARK + text[second:]
        found = filled(odd)
        seen += found is not None
        assert found in (None, with_sent_at(plain))
    assert seen > 3


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"a":1}',
        b'{"a":1\n},{"b":2}',
        b'{"a":1,"sentAt":"old"\n}',
        b'{"sentAt":"old","a":1\n}',
        b'{"a":1\n,"sentAt":0}',
        b'{"sentAt":0,"a":1\n}',
        b'{"a":{"b":1\n},"c":1\n},{"sentAt":0}',
        b'{"a":1\n,"b":2\n}',
        b"[1\n]",
        b'"\n"',
        b'{"a":1\n},{',
        b'{"a":' * 3000 + b"1\n" + b"}" * 3000,
    ],
)
def test_a_text_that_is_not_all_marked_events_is_none(text: bytes) -> None:
    """Such events get the field one by one, which replaces one that is there."""
    assert marked(text) is None


def test_marked_events_can_be_read_one_by_one() -> None:
    """A split, a dead letter and a command need single events."""
    events = marked(b'{"a":1\n},{"b":2\n},{"c":3\n}')

    assert isinstance(events, MarkedEvents)
    assert len(events) == 3
    assert [bytes(event) for event in events] == [b'{"a":1\n}', b'{"b":2\n}', b'{"c":3\n}']
    assert [bytes(event) for event in events[1:]] == [b'{"b":2\n}', b'{"c":3\n}']


def test_a_job_of_ours_keeps_its_marks_in_both_halves() -> None:
    """The events of a split job are sent in the same way, and only once each."""
    events = messages()
    data = job.build(b",".join(events), "KEY", NOW, 7)

    whole = job.read(data.encode())
    halves = [job.read(job.with_events(data.encode(), *part).encode()) for part in ((0, 5), (5, len(events)))]

    assert [type(each.events) for each in (whole, *halves)] == [MarkedEvents] * 3
    assert (whole.write_key, whole.epoch, whole.attempts, whole.timeout_s) == ("KEY", 7, 0, None)
    assert [bytes(event) for half in halves for event in half.events] == events
    assert halves[1].epoch == 7


def test_a_job_that_another_program_has_written_anew_is_read_in_the_general_way() -> None:
    """Its white space is gone, and its fields may differ."""
    events = messages()
    inner = json.loads(json.loads(job.build(b",".join(events), "KEY", NOW, 7))["eventData"])
    inner["attempts"] = 2
    data = json.dumps({"version": 3, "eventData": json.dumps(inner)}).encode()

    found = job.read(data)

    assert type(found.events) is list
    assert (found.epoch, found.attempts, found.write_key, len(found.events)) == (7, 2, "KEY", len(events))


def test_a_job_of_ours_with_attempts_and_an_odd_key_is_read_as_in_the_general_way() -> None:
    """Both ways must agree about everything."""
    for key, attempts in (("KEY", 3), ('k"\\1', 0), ("\u00e9", 0), ("", 12)):
        data = job.build(messages()[0], key, NOW, 7).replace('\\"attempts\\":0', f'\\"attempts\\":{attempts}').encode()

        found = job.read(data)

        assert (found.write_key, found.attempts, found.epoch) == (key, attempts, 7)


def test_a_body_mixes_marked_and_other_batches() -> None:
    """A request may hold jobs of several versions and SDKs; an empty batch adds nothing."""
    ours, other = marked(b'{"a":1\n},{"b":2\n}'), [b'{"c":3}', b'{"d":4,"sentAt":"old"\n}', b"7"]
    assert ours is not None

    body = json.loads(request.body([ours, [], other, ours], NOW))

    one, two = {"a": 1, "sentAt": NOW}, {"b": 2, "sentAt": NOW}
    assert body["batch"] == [one, two, {"c": 3, "sentAt": NOW}, {"d": 4, "sentAt": NOW}, 7, one, two]
    assert json.loads(request.body([], NOW))["batch"] == []
