"""Our messages beside those of the real Node SDK. The same random calls give the same events."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timezone
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from native_tests.node_programs import NodeError, NodeProgram, NodePrograms
from native_tests.processes import Processes
from rudderpipe import Client, EventError
from rudderpipe.testing.data_plane import DataPlaneServer

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e6, 1e6) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(TEXT, VALUES, max_size=4)
IDS = st.sampled_from(["u1", "ü 2", 42, 1.5, "", None])  # not 0, which is an id to us and none to the Node SDK
WRONG = st.sampled_from([["list"], True, {"an": "object"}])
NAMES = st.sampled_from(["Item Viewed", "ü", "", None, False, 0, 7])
FALSY = st.sampled_from([None, False, 0, ""])
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "userId": IDS | WRONG,
    "anonymousId": IDS,
    "event": NAMES,
    "name": NAMES,
    "category": NAMES,
    "groupId": st.sampled_from(["g", "", None]),
    "previousId": st.sampled_from(["p", "", None]),
    "properties": VALUES,
    "traits": VALUES,
    "context": MAPPINGS | FALSY | st.just([1]),
    "integrations": MAPPINGS | FALSY | st.just("text"),
    "timestamp": st.sampled_from([{"$date": "2026-01-02T03:04:05.678Z"}, None]),
    "messageId": st.sampled_from(["mine", "", None]),
    "own": VALUES,
}
NEEDED = {
    "identify": {"userId": "u"},
    "track": {"userId": "u", "event": "e"},
    "page": {"anonymousId": "a"},
    "screen": {"userId": "u"},
    "group": {"userId": "u", "groupId": "g"},
    "alias": {"userId": "u", "previousId": "p"},
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Draw a call that mostly has the fields it needs, and some more, which may be wrong."""
    method = draw(st.sampled_from(sorted(NEEDED)))
    more = draw(st.lists(st.sampled_from(sorted(PARTS)), max_size=4, unique=True))
    return method, {**NEEDED[method], **{name: draw(PARTS[name]) for name in more}}


def sent(plane: DataPlaneServer) -> dict[str, Any]:
    """Return the last event without what may differ, which is ids, times and the library's name."""
    (event,) = json.loads(plane.last_events()[-1])["batch"]
    for name in ("sentAt", "_metadata", "originalTimestamp"):
        event.pop(name, None)
    if event.get("timestamp"):
        event["timestamp"] = datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00"))
    if event["messageId"] != "mine":
        del event["messageId"]
    assert event["context"].pop("library")["version"]
    return {name: value for name, value in event.items() if value is not None and value != ""}


def by_node(program: NodeProgram, plane: DataPlaneServer, method: str, message: dict[str, Any]) -> Any:
    """Return what the Node SDK sent, or None if it threw."""
    try:
        program.ask(method=method, message=message)
    except NodeError:
        return None
    return sent(plane)


def by_us(client: Client, plane: DataPlaneServer, method: str, message: dict[str, Any]) -> Any:
    """Return what our client sent, or None if it raised."""
    mine = copy.deepcopy(message)
    if isinstance(mine.get("timestamp"), dict):
        mine["timestamp"] = datetime.fromisoformat(mine["timestamp"]["$date"].replace("Z", "+00:00"))
    try:
        getattr(client, method)(mine)
    except EventError:
        return None
    return sent(plane)


def test_our_messages_are_equal_to_those_of_the_node_sdk(processes: Processes, node: NodePrograms) -> None:
    """Both get 300 random calls as one mapping in the Node SDK's names, and both must send or refuse it."""
    program = node.start("memory", write_key="KEY", data_plane_url=processes.plane.url)
    program.ready()
    client = processes.client(sync_mode=True, strict=True)
    compared = []

    @settings(derandomize=True, max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(calls())
    def both(call: tuple[str, dict[str, Any]]) -> None:
        expected = by_node(program, processes.plane, *call)
        got = by_us(client, processes.plane, *call)
        assert got == expected
        compared.append(got)

    try:
        both()
    finally:
        client.shutdown()

    assert sum(event is not None for event in compared) > 100
    assert sum(event is None for event in compared) > 20


def test_named_arguments_make_the_same_message_as_a_mapping(processes: Processes) -> None:
    """An application may use either form, so both must mean the same."""
    client = processes.client()
    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    common = {"context": {"ip": "1"}, "timestamp": when, "integrations": {"All": True}, "message_id": "m"}
    wire = {"context": {"ip": "1"}, "timestamp": when, "integrations": {"All": True}, "messageId": "m"}
    method: Any
    for method, arguments, message in (
        ("identify", {"user_id": 7, "traits": {"a": 1}}, {"userId": 7, "traits": {"a": 1}}),
        ("track", {"anonymous_id": "x", "event": "e"}, {"anonymousId": "x", "event": "e"}),
        ("page", {"user_id": "u", "name": "n", "category": "c"}, {"userId": "u", "name": "n", "category": "c"}),
        ("screen", {"user_id": "u", "properties": {"a": 1}}, {"userId": "u", "properties": {"a": 1}}),
        ("group", {"user_id": "u", "group_id": "g"}, {"userId": "u", "groupId": "g"}),
        ("alias", {"previous_id": "p", "user_id": "u"}, {"previousId": "p", "userId": "u"}),
    ):
        ours: Any = client.preview(method, **arguments, **common)
        theirs: Any = client.preview(method, {**message, **wire})
        for each in (ours, theirs):
            assert each.pop("originalTimestamp")
        assert ours == theirs
