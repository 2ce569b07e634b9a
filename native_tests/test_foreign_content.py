"""Foreign and broken jobs in the queue.

The next job is delivered, and the broken one is kept with a readable reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from native_tests.peers import P, Peers
from native_tests.processes import wait_until


def job_data(batch: Any = None, **changes: Any) -> str:
    """Return a job's data as the Node SDK writes it, with these changes of its request. None removes a field."""
    request = {
        "auth": {"username": "KEY"},
        "headers": {"user-agent": "analytics-node/3.0.13"},
        "data": {"batch": batch or [{"userId": "u", "messageId": "foreign", "type": "track", "event": "e"}]},
        **changes,
    }
    kept = {name: value for name, value in request.items() if value is not None}
    return envelope({"jobId": "x", "description": "x", "request": kept, "attempts": 0})


def envelope(event_data: Any, version: Any = 3) -> str:
    """Return the data of a job around any value."""
    return json.dumps({"version": version, "eventData": json.dumps(event_data)})


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "not JSON"),
    "not JSON": ("nonsense", "not JSON"),
    "half of JSON": (job_data()[:-20], "not JSON"),
    "bytes that are no text": (b"\xff\xfe\x00\xed\xa0\x80", "not JSON"),
    "null": ("null", "not JSON"),
    "a list": ("[]", "not JSON"),
    "no version": (json.dumps({"eventData": "{}"}), "version|not JSON"),
    "a later version": (envelope({}, version=4), "version 4"),
    "a version as text": (envelope({}, version="3"), "version|not JSON"),
    "eventData as an object": (json.dumps({"version": 3, "eventData": {}}), "eventData|not JSON"),
    "eventData that is no JSON": (json.dumps({"version": 3, "eventData": "{"}), "eventData"),
    "no request": (envelope({"jobId": "x", "attempts": 0}), "request"),
    "request without data": (job_data(data=None), "batch"),
    "data without batch": (job_data(data={}), "batch"),
    "an empty batch": (job_data(data={"batch": []}), "batch"),
    "a batch that is no list": (job_data(data={"batch": {}}), "batch"),
    "events that are no objects": (job_data(batch=[7]), "."),
    "no write key": (job_data(auth=None), "write key|401|write"),
    "headers that are no object": (job_data(headers=[1]), "request|headers"),
    "bytes that are no text inside an event": (
        job_data().encode().replace(b"foreign", b"for\xff\xed\xa0\x80ign"),
        "not JSON|text|UTF",
    ),
    "deeply nested": ("[" * 100_000, "not JSON"),
}
JUDGED_BY_THE_DATA_PLANE = {"events that are no objects", "no write key"}
"""Well-formed jobs, for which one request is made."""


def assert_next_is_delivered(peers: Peers, broken: str, reason: str) -> dict[bytes, bytes]:
    """Check that the next job is delivered and the broken one has failed; return its raw fields."""
    peers.add(1, events=1)
    peers.send_all()
    assert [event["messageId"] for event in peers.sent()] == ["ours-0"]
    assert peers.ids("failed") == [broken]
    assert peers.settled()
    fields: dict[bytes, bytes] = peers.raw(broken)
    text = fields[b"failedReason"].decode()
    assert any(word in text for word in reason.split("|")) or reason == "."
    assert " " in text
    assert "Traceback" not in text
    assert json.loads(fields[b"stacktrace"])
    return fields


@pytest.mark.parametrize("kind", BROKEN)
def test_a_job_with_broken_data_fails_and_keeps_its_data(peers: Peers, kind: str) -> None:
    """The job fails at once with a reason, and its data stays the same byte for byte."""
    data, reason = BROKEN[kind]
    broken = peers.add_data(data)

    fields = assert_next_is_delivered(peers, broken, reason)

    assert fields[b"data"] == (data.encode() if isinstance(data, str) else data)
    assert len(peers.seen) == 1 + (kind in JUDGED_BY_THE_DATA_PLANE)


def test_an_id_without_a_hash_fails(peers: Peers) -> None:
    """A tool may delete a job's hash and leave its id."""
    peers.redis.lpush(f"{P}wait", "x")

    assert_next_is_delivered(peers, "x", "no hash")


def test_a_key_of_another_type_in_place_of_a_job_does_not_stop_the_queue(peers: Peers) -> None:
    """The next job is delivered, and the foreign key stays."""
    peers.redis.set(f"{P}x", "text")
    peers.redis.lpush(f"{P}wait", "x")
    peers.add(1)

    sender = peers.sender()
    wait_until(lambda: sender.work() is not None and peers.plane.stats()["events"] == 2, 5)

    assert peers.redis.get(f"{P}x") == "text"


@pytest.mark.parametrize("odd_id", ["b\xfc".encode("latin-1"), b'a"b', b"", b"two words", b"x" * 5000])
def test_an_unusual_id_does_not_stop_the_queue(peers: Peers, odd_id: bytes) -> None:
    """Bull takes any text as an id, and a list may hold bytes that are no text at all."""
    client = peers.server.client()
    client.hset(P.encode() + odd_id, mapping={"data": "nonsense"})
    client.lpush(f"{P}wait", odd_id)
    client.close()
    peers.add(1)

    sender = peers.sender()
    wait_until(lambda: sender.work() is not None and peers.plane.stats()["events"] == 2, 5)


def test_a_job_with_only_data_is_delivered(peers: Peers) -> None:
    """Bull runs a job without opts, name and timestamp, so we must too."""
    peers.redis.hset(f"{P}x", "data", job_data())
    peers.redis.lpush(f"{P}wait", "x")

    peers.send_all()

    assert [event["messageId"] for event in peers.sent()] == ["foreign"]


def test_a_stalled_job_without_opts_is_not_lost_by_our_sweep(peers: Peers) -> None:
    """Bull's own check drops such a job from every list. Our sweep puts it back, and fails it the second time."""
    peers.redis.hset(f"{P}x", "data", job_data())
    peers.redis.lpush(f"{P}active", "x")

    assert peers.sweep() == 1
    assert peers.ids("wait") == ["x"]
    peers.redis.rpoplpush(f"{P}wait", f"{P}active")
    assert peers.sweep() == 0

    assert peers.ids("failed") == ["x"]


@pytest.mark.parametrize(
    "odd", [{"auth": {"username": 7}}, {"timeout": "soon"}, {"timeout": -1}, {"headers": {"user-agent": None}}]
)
def test_invalid_fields_that_delivery_does_not_need_are_ignored(peers: Peers, odd: dict[str, Any]) -> None:
    """The events are whole, so they are sent, and the data plane decides."""
    peers.add_data(job_data(**odd), name="another")

    peers.send_all()

    assert [event["messageId"] for event in peers.sent()] == ["foreign"]


def test_a_batch_too_large_for_the_data_plane_fails_and_is_kept(peers: Peers) -> None:
    """The reason is the data plane's 413, and the next job is delivered."""
    data = job_data(batch=[{"userId": "u", "messageId": "big", "properties": {"x": "y" * 10_000_000}}])
    broken = peers.add_data(data)

    fields = assert_next_is_delivered(peers, broken, "413")

    assert fields[b"data"] == data.encode()


def test_ten_megabytes_of_invalid_data_are_kept(peers: Peers) -> None:
    """A sender reads and refuses the data, but does not shorten it."""
    data = "x" * 10_000_000
    broken = peers.add_data(data)

    fields = assert_next_is_delivered(peers, broken, "not JSON")

    assert fields[b"data"] == data.encode()


def test_a_waiting_job_under_a_foreign_lock_is_delivered(peers: Peers) -> None:
    """In Bull, the worker that takes a waiting job owns it, in spite of a lock that an earlier worker left."""
    found = peers.add_data(job_data())
    peers.redis.set(f"{P}{found}:lock", "another-worker", px=30_000)

    peers.send_all()

    assert [event["messageId"] for event in peers.sent()] == ["foreign"]
    assert peers.settled()


def test_an_active_job_under_a_foreign_lock_is_left_alone(peers: Peers) -> None:
    """Another worker holds the job. The jobs that wait behind it are delivered."""
    peers.redis.hset(f"{P}x", "data", job_data())
    peers.redis.lpush(f"{P}active", "x")
    peers.redis.set(f"{P}x:lock", "another-worker", px=30_000)
    peers.add(1, events=1)

    sender = peers.sender()
    wait_until(lambda: sender.work() is not None and peers.plane.stats()["events"] == 1 and not peers.ids("wait"))
    wait_until(lambda: sender.work() is not None and peers.ids("active") == ["x"])

    assert peers.redis.get(f"{P}x:lock") == "another-worker"
    assert [event["messageId"] for event in peers.sent()] == ["ours-0"]


ODD_TEXTS: dict[str, Callable[[], str]] = {
    "a pair, escaped": lambda: "\\ud83d\\ude00",
    "U+0000, escaped": lambda: "\\u0000",
    "line separators": lambda: "\u2028\u2029",
    "no character": lambda: "\uffff",
}


@pytest.mark.parametrize("kind", ODD_TEXTS)
def test_unusual_text_in_an_event_is_delivered_unchanged(peers: Peers, kind: str) -> None:
    """Valid JSON must reach the data plane byte for byte."""
    text = ODD_TEXTS[kind]()
    inner = json.loads(job_data())["eventData"].replace('"event": "e"', f'"event": "{text}"')
    peers.add_data(json.dumps({"version": 3, "eventData": inner}))

    peers.send_all()

    assert f'"{text}"'.encode() in peers.plane.last_events()[0]
