"""Foreign and broken content in the queue: the next job goes on, the broken one is kept with a reason for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from native_tests.peers import P, Peers
from native_tests.processes import wait_until


def job_data(batch: Any = None, **changes: Any) -> str:
    """A job's data as the Node SDK writes it, but for these changes of its request; None takes a field away."""
    request = {
        "auth": {"username": "KEY"},
        "headers": {"user-agent": "analytics-node/3.0.13"},
        "data": {"batch": batch or [{"userId": "u", "messageId": "foreign", "type": "track", "event": "e"}]},
        **changes,
    }
    kept = {name: value for name, value in request.items() if value is not None}
    return envelope({"jobId": "x", "description": "x", "request": kept, "attempts": 0})


def envelope(event_data: Any, version: Any = 3) -> str:
    """Around anything."""
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
"""Well-formed jobs, which are tried once."""


def assert_next_goes_on(peers: Peers, broken: str, reason: str) -> dict[bytes, bytes]:
    """The job behind it is delivered, it is in failed with that reason; its raw fields."""
    peers.add(1, events=1)
    peers.send_all()
    assert [event["messageId"] for event in peers.sent()] == ["ours-0"]
    assert peers.ids("failed") == [broken]
    assert peers.settled()
    fields: dict[bytes, bytes] = peers.raw(broken)
    said = fields[b"failedReason"].decode()
    assert any(word in said for word in reason.split("|")) or reason == "."
    assert " " in said
    assert "Traceback" not in said
    assert json.loads(fields[b"stacktrace"])
    return fields


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_data_is_failed_and_kept(peers: Peers, kind: str) -> None:
    """Whatever the data is: failed at once with a reason, byte for byte what it was."""
    data, reason = BROKEN[kind]
    broken = peers.add_data(data)

    fields = assert_next_goes_on(peers, broken, reason)

    assert fields[b"data"] == (data.encode() if isinstance(data, str) else data)
    assert len(peers.seen) == 1 + (kind in JUDGED_BY_THE_DATA_PLANE)


def test_an_id_without_a_hash_is_failed(peers: Peers) -> None:
    """Somebody deleted the hash and left the id."""
    peers.redis.lpush(f"{P}wait", "x")

    assert_next_goes_on(peers, "x", "no hash")


def test_a_hash_that_is_no_hash_does_not_stop_the_queue(peers: Peers) -> None:
    """A key of another type where the job should be; the next job is delivered, the key stays."""
    peers.redis.set(f"{P}x", "text")
    peers.redis.lpush(f"{P}wait", "x")
    peers.add(1)

    sender = peers.sender()
    wait_until(lambda: sender.work() is not None and peers.plane.stats()["events"] == 2, 5)

    assert peers.redis.get(f"{P}x") == "text"


@pytest.mark.parametrize("odd_id", ["b\xfc".encode("latin-1"), b'a"b', b"", b"two words", b"x" * 5000])
def test_an_id_that_is_odd_does_not_stop_the_queue(peers: Peers, odd_id: bytes) -> None:
    """Bull takes any text for an id; and what is in a list may be no text at all."""
    client = peers.server.client()
    client.hset(P.encode() + odd_id, mapping={"data": "nonsense"})
    client.lpush(f"{P}wait", odd_id)
    client.close()
    peers.add(1)

    sender = peers.sender()
    wait_until(lambda: sender.work() is not None and peers.plane.stats()["events"] == 2, 5)


def test_a_job_with_nothing_but_data_is_delivered(peers: Peers) -> None:
    """No opts, name, timestamp: what Bull runs, we run."""
    peers.redis.hset(f"{P}x", "data", job_data())
    peers.redis.lpush(f"{P}wait", "x")

    peers.send_all()

    assert [event["messageId"] for event in peers.sent()] == ["foreign"]


def test_a_stalled_job_without_opts_is_not_lost_by_our_sweep(peers: Peers) -> None:
    """Bull's own check drops such a job from every list; ours puts it in line, and into failed the second time."""
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
def test_what_delivery_does_not_need_may_be_odd(peers: Peers, odd: dict[str, Any]) -> None:
    """The events are whole: they are sent, and the data plane has the last word."""
    peers.add_data(job_data(**odd), name="another")

    peers.send_all()

    assert [event["messageId"] for event in peers.sent()] == ["foreign"]


def test_ten_megabytes_are_refused_by_the_data_plane_and_kept(peers: Peers) -> None:
    """A batch larger than the gateway takes: failed with the gateway's answer, kept whole, and the next goes on."""
    data = job_data(batch=[{"userId": "u", "messageId": "big", "properties": {"x": "y" * 10_000_000}}])
    broken = peers.add_data(data)

    fields = assert_next_goes_on(peers, broken, "413")

    assert fields[b"data"] == data.encode()


def test_ten_megabytes_of_nonsense_are_kept(peers: Peers) -> None:
    """Read, refused, kept whole."""
    data = "x" * 10_000_000
    broken = peers.add_data(data)

    fields = assert_next_goes_on(peers, broken, "not JSON")

    assert fields[b"data"] == data.encode()


def test_a_waiting_job_under_a_foreign_lock_is_delivered(peers: Peers) -> None:
    """As with Bull, whoever takes a job that waits has it, whatever lock an earlier worker left."""
    found = peers.add_data(job_data())
    peers.redis.set(f"{P}{found}:lock", "somebody", px=30_000)

    peers.send_all()

    assert [event["messageId"] for event in peers.sent()] == ["foreign"]
    assert peers.settled()


def test_an_active_job_under_a_foreign_lock_is_left_alone(peers: Peers) -> None:
    """It is not ours; what waits behind it goes on."""
    peers.redis.hset(f"{P}x", "data", job_data())
    peers.redis.lpush(f"{P}active", "x")
    peers.redis.set(f"{P}x:lock", "somebody", px=30_000)
    peers.add(1, events=1)

    sender = peers.sender()
    wait_until(lambda: sender.work() is not None and peers.plane.stats()["events"] == 1 and not peers.ids("wait"))
    wait_until(lambda: sender.work() is not None and peers.ids("active") == ["x"])

    assert peers.redis.get(f"{P}x:lock") == "somebody"
    assert [event["messageId"] for event in peers.sent()] == ["ours-0"]


ODD_TEXTS: dict[str, Callable[[], str]] = {
    "a pair, escaped": lambda: "\\ud83d\\ude00",
    "U+0000, escaped": lambda: "\\u0000",
    "line separators": lambda: "\u2028\u2029",
    "no character": lambda: "\uffff",
}


@pytest.mark.parametrize("kind", ODD_TEXTS)
def test_odd_text_in_an_event_is_delivered_as_it_is(peers: Peers, kind: str) -> None:
    """What is valid JSON reaches the data plane byte for byte."""
    text = ODD_TEXTS[kind]()
    inner = json.loads(job_data())["eventData"].replace('"event": "e"', f'"event": "{text}"')
    peers.add_data(json.dumps({"version": 3, "eventData": inner}))

    peers.send_all()

    assert f'"{text}"'.encode() in peers.plane.last_events()[0]
