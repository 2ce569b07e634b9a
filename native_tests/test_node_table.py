"""Each call with each field and each kind of value, beside the real Node SDK: the same result, or a documented one."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from native_tests.node_events import Event, comparable
from native_tests.node_programs import NodePrograms
from native_tests.processes import Processes
from rudderpipe import EventError

PAGE = Path(__file__).parent.parent / "docs" / "node.md"
HEAD = "| call | field | value | rudder-sdk-node 3.0.13 |"
LONG = 33_000
"""The Node SDK does not check a message of 32 KiB or more."""
ISO = "2026-01-02T03:04:05.678Z"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_000, timezone.utc)

NEEDED: dict[str, dict[str, Any]] = {
    "identify": {},
    "track": {"event": "e"},
    "page": {},
    "screen": {},
    "group": {"groupId": "g"},
    "alias": {"userId": "u", "previousId": "p"},
}
USERS = ({"userId": "u"}, {"anonymousId": "a"})
FIELDS = (
    *("userId", "anonymousId", "groupId", "previousId", "event", "name", "category", "properties", "traits"),
    *("context", "integrations", "timestamp", "originalTimestamp", "messageId", "type", "channel", "sentAt"),
    *("_metadata", "context.traits", "context.library", "a field of your own"),
)
KINDS: dict[str, tuple[Any, Any]] = {
    **{json.dumps(value): (value, value) for value in (None, False, True, 0, 1, -1, 1.5, 1e21)},
    "NaN": (math.nan, {"$number": "NaN"}),
    "Infinity": (math.inf, {"$number": "Infinity"}),
    **{json.dumps(value): (value, value) for value in ("", " ", "text", "42")},
    "ISO 8601 text": (ISO, ISO),
    "long text": ("x" * LONG, {"$text": LONG}),
    "a date": (MOMENT, {"$date": ISO}),
    "milliseconds": (1767323045678, 1767323045678),
    **{json.dumps(value): (value, value) for value in ([], [1], {}, {"a": 1})},
    "a nested object": ({"a": {"b": [1, {"c": None, "d": "x"}]}}, {"a": {"b": [1, {"c": None, "d": "x"}]}}),
    "a list with a date": ([{"at": MOMENT}], [{"at": {"$date": ISO}}]),
}
"""The value in Python, and its form in a command for the Node program."""


class Case(NamedTuple):
    """One message, by what is in it."""

    call: str
    field: str
    kind: str


class Row(NamedTuple):
    """One row of the table in docs/node.md: its cases, and what it says of either side."""

    cases: frozenset[Case]
    node: str
    ours: str


def with_field(message: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """Return the message with one more field, which may be in the context."""
    outer, _, inner = field.partition(".")
    return {**message, outer: {inner: value} if inner else value}


def messages() -> Iterator[tuple[Case, dict[str, Any], dict[str, Any]]]:
    """Yield each case with its message in Python and in the form for Node."""
    for call, needed in NEEDED.items():
        for user in USERS:
            for field in FIELDS:
                for kind, (ours, theirs) in KINDS.items():
                    base = {**user, **needed}
                    yield Case(call, field, kind), with_field(base, field, ours), with_field(base, field, theirs)


CASES = [
    (case, {"number": number, **mine}, {"number": number, **theirs})
    for number, (case, mine, theirs) in enumerate(messages())
]


def by_node(node: NodePrograms) -> list[dict[str, Any] | None]:
    """Return what the Node SDK sent for each message, or None where it threw."""
    answers = node.start("table").ask(calls=[(case.call, theirs) for case, _, theirs in CASES])
    assert len(answers) == len(CASES)
    return [answer.get("sent") for answer in answers]


def by_us(processes: Processes) -> list[dict[str, Any] | None]:
    """Return what arrived at the data plane for each of our calls, or None where the call raised."""
    client = processes.client(strict=True, when_full="block", flush_at=200)
    accepted = []
    for case, mine, _ in CASES:
        try:
            accepted.append(getattr(client, case.call)(mine))
        except EventError:
            accepted.append(False)
    result = client.flush(60, until="delivered")
    assert result, result
    arrived = {event["number"]: event for body in processes.plane.last_events() for event in json.loads(body)["batch"]}
    assert sorted(arrived) == [number for number, was_accepted in enumerate(accepted) if was_accepted]
    return [arrived.get(number) for number in range(len(CASES))]


def check_the_rest(case: Case, theirs: Event, ours: Event) -> None:
    """Check that two different events differ only in the field of their case."""
    if theirs is not None and ours is not None:
        differing = {name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)}
        assert differing == {case.field}, (case, theirs, ours)


def rows() -> Iterator[Row]:
    """Yield the rows of the table."""
    lines = PAGE.read_text().split(HEAD)[1].splitlines()[2:]
    for line in lines:
        if not line.startswith("|"):
            return
        calls, fields, kinds, node, ours, why = (cell.strip() for cell in line.strip("|").split("|"))
        assert why
        cases = {
            Case(call, field, kind)
            for call in listed(calls, tuple(NEEDED))
            for field in listed(fields, FIELDS)
            for kind in listed(kinds, tuple(KINDS))
        }
        yield Row(frozenset(cases), node, ours)


def listed(cell: str, known: tuple[str, ...]) -> list[str]:
    """Return the names in a cell: "all", a list, or "all but" a list."""
    names = [name.strip("`") for name in cell.removeprefix("all but ").split(", ")]
    if names == ["all"]:
        return list(known)
    assert set(names) <= set(known), cell
    return [name for name in known if name not in names] if cell.startswith("all but ") else names


def check(said: str, events: list[tuple[Case, Event]]) -> None:
    """Check what a row says of one side, which is "refuses", "sends" with the field's JSON, or both."""
    sent = [(case, event) for case, event in events if event is not None]
    assert ("refuses" in said) == (len(sent) < len(events)), said
    assert ("sends" in said) == bool(sent), said
    values = re.findall("`([^`]+)`", said)
    for case, event in sent:
        if "without the field" in said:
            assert case.field not in event, (said, case)
        elif values:
            assert event[case.field] in values, (said, case)
        else:
            assert case.field in event, (said, case)


def test_every_message_has_the_node_sdks_answer_or_a_row_in_the_documentation(
    processes: Processes, node: NodePrograms
) -> None:
    """An event is sent with the same JSON, or refused, as by rudder-sdk-node 3.0.13; each difference has its reason."""
    since = datetime.now(timezone.utc).replace(microsecond=0)
    found: dict[Case, list[tuple[Event, Event]]] = defaultdict(list)
    for (case, _, _), sent_by_node, sent_by_us in zip(CASES, by_node(node), by_us(processes), strict=True):
        theirs, ours = comparable(sent_by_node, since), comparable(sent_by_us, since)
        if theirs != ours:
            check_the_rest(case, theirs, ours)
            found[case].append((theirs, ours))

    table = list(rows())
    documented = [case for row in table for case in row.cases]
    assert sorted(set(found) - set(documented)) == []
    assert sorted(set(documented) - set(found)) == []
    assert len(documented) == len(set(documented))
    for row in table:
        check(row.node, [(case, theirs) for case in row.cases for theirs, _ in found[case]])
        check(row.ours, [(case, ours) for case in row.cases for _, ours in found[case]])


def test_the_table_is_large() -> None:
    """Each call, each field and more than twenty kinds of value make more than three thousand messages."""
    assert len(CASES) > 3_000
    assert len(KINDS) > 20
