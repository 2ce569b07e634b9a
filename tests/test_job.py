"""A job's data, as rudder-sdk-node 3 writes and reads it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rudderpipe._version import USER_AGENT
from rudderpipe.delivery import request
from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job
from rudderpipe.queue.job import Job
from tests.broken_jobs import is_json, mutated

EPOCH = 0x1234567890ABCDEF


def recorded(golden: Path, name: str, job_id: str = "1") -> dict[str, Any]:
    """Return a job's hash as the Node SDK left it in Redis."""
    dump = json.loads((golden / "persist" / f"{name}.json").read_text())
    value: dict[str, Any] = dump["redis"][f"{{rudder}}:rudderEventsQueue:{job_id}"]["value"]
    return value


def test_our_job_is_equal_to_the_node_sdks_for_the_same_batch(golden: Path) -> None:
    """Keys and their order must be the same. Only ids, agent and times differ, and the description has no hash."""
    theirs = json.loads(json.loads(recorded(golden, "track-1-waiting")["data"])["eventData"])
    events = ",".join(json.dumps(event, separators=(",", ":")) for event in theirs["request"]["data"]["batch"])

    outer = json.loads(job.build(events.encode(), "WRITE_KEY_1", theirs["request"]["data"]["sentAt"], EPOCH))
    ours = json.loads(outer["eventData"])

    assert list(outer) == ["version", "eventData"]
    assert list(ours) == list(theirs)
    assert list(ours["request"]) == list(theirs["request"])
    assert ours["request"]["data"] == theirs["request"]["data"]
    assert ours["request"]["auth"] == theirs["request"]["auth"]
    assert ours["description"] == f"node-{ours['jobId']}"
    assert len(ours["jobId"]) == 36


def test_our_job_can_be_read_back() -> None:
    """The events are the same byte for byte, and write key and ring are known."""
    built = job.build(b'{"a":"\\u00e9\\n\\"x"},{"b":[1]}', 'k"1', "2026-01-01T00:00:00.000Z", EPOCH)

    found = job.read(built.encode())

    assert [bytes(event) for event in found.events] == [b'{"a":"\\u00e9\\n\\"x"}', b'{"b":[1]}']
    assert (found.write_key, found.attempts, found.epoch, found.timeout_s) == ('k"1', 0, EPOCH, None)


def test_a_job_of_the_node_sdk_can_be_read() -> None:
    """It counts attempts in its data, may have a timeout in milliseconds, and comes from no ring."""
    inner = {
        "jobId": "841c7d7a-b51d-4fdf-9864-68814088f925",
        "request": {
            "auth": {"username": "K"},
            "headers": {"user-agent": "analytics-node/3.0.13"},
            "timeout": 1500,
            "data": {"batch": [{"userId": "u"}], "sentAt": "x"},
        },
        "attempts": 3,
    }

    found = job.read(json.dumps({"version": 3, "eventData": json.dumps(inner)}).encode())

    assert (found.write_key, found.attempts, found.epoch, found.timeout_s) == ("K", 3, 0, 1.5)


def test_recorded_jobs_of_the_node_sdk_can_be_read(golden: Path) -> None:
    """One of them is a job that the Node SDK retried."""
    for name, job_id, attempts in (("all-six-types-1-waiting", "1", 0), ("track-4-retry-after-500", "2", 1)):
        found = job.read(recorded(golden, name, job_id)["data"].encode())
        assert found.events
        assert found.attempts == attempts


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not JSON"),
        (b"[]", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"eventData":"{}"}', "no version number"),
        (b'{"version":"3","eventData":"{}"}', "no version number"),
        (b'{"version":4,"eventData":"{}"}', "version 4"),
        (b'{"version":3}', "eventData"),
        (b'{"version":3,"eventData":{}}', "eventData"),
        (b'{"version":3,"eventData":"\xff"}', "not JSON"),
        (b'{"version":3,"eventData":"{\\"request\\":{\\"data\\":{\\"batch\\":7}}}"}', "list of events"),
        (b'{"version":3,"eventData":"nope"}', "eventData"),
        (b'{"version":3,"eventData":"{}"}', "eventData"),
        (b'{"version":3,"eventData":"{\\"request\\":{}}"}', "eventData"),
    ],
)
def test_unreadable_data_raises_with_a_reason(data: bytes, word: str) -> None:
    """An operator reads the reason in the failed set."""
    with pytest.raises(JobUnreadable, match=word):
        job.read(data)


def job_with(**request: Any) -> Job:
    """Return the job that is read from data with these fields in its request."""
    inner = {"jobId": 7, "request": {"data": {"batch": [{"userId": "u"}]}, **request}, "attempts": "many"}
    return job.read(json.dumps({"version": 3, "eventData": json.dumps(inner)}).encode())


@pytest.mark.parametrize(
    ("timeout", "timeout_s"), [(5000, 5.0), (-5, None), (0, None), ("5s", None), (1e300, 600.0), (None, None)]
)
def test_invalid_fields_that_delivery_does_not_need_are_ignored(timeout: Any, timeout_s: float | None) -> None:
    """The events are whole, so they are sent, and the data plane decides."""
    found = job_with(timeout=timeout, headers={"user-agent": None, "x": [1]}, auth=None)

    assert (found.attempts, found.epoch, found.write_key, found.timeout_s) == (0, 0, "", timeout_s)
    assert job_with(auth={"username": 7}).write_key == "7"


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        (r"a\\ud83d", r"a\\ud83d"),
        (r"a\\\ud83d b", r"a\\\ufffd b"),
        (r"\ud83d\ude00", r"\ud83d\ude00"),
        (r"\ude00\uD83D\\u", r"\ufffd\ufffd\\u"),
        (r"\n\u00e9\ud83d\n", r"\n\u00e9\ufffd\n"),
    ],
)
def test_half_a_surrogate_pair_is_read_as_a_replacement_character(written: str, stored: str) -> None:
    """JavaScript may cut a text within an emoji. The other events of the batch must not be lost."""
    inner = f'{{"request":{{"data":{{"batch":["{written}"]}}}}}}'

    found = job.read(json.dumps({"version": 3, "eventData": inner}).encode())

    assert bytes(found.events[0]).decode() == f'"{stored}"'


def test_without_attempts_sets_the_attempts_to_0() -> None:
    """All other parts of the data stay, in their order."""
    request = {"x": 1, "data": {"batch": [{"a": 1}]}}
    data = json.dumps({"version": 3, "eventData": json.dumps({"jobId": "j", "request": request, "attempts": 9})})

    changed = json.loads(job.without_attempts(data.encode()))

    assert json.loads(changed["eventData"]) == {"jobId": "j", "request": request, "attempts": 0}
    assert job.without_attempts(b"nonsense") == b"nonsense"


def test_our_job_names_our_sdk_as_user_agent() -> None:
    """The agent shows an operator which SDK made a job."""
    built = json.loads(job.build(b"{}", "k", "t", EPOCH))

    assert json.loads(built["eventData"])["request"]["headers"] == {"user-agent": USER_AGENT}


def read_or_reason(data: bytes) -> Job | str:
    """Return the job, or the reason why it cannot be read."""
    try:
        return job.read(data)
    except JobUnreadable as error:
        return error.reason


@pytest.mark.parametrize("seed", range(20))
def test_reading_splitting_and_rewriting_accept_the_same_jobs(seed: int) -> None:
    """Of a thousand damaged jobs each is unreadable to all three functions, or equal for all and valid in a request."""
    dice = random.Random(seed)
    events = [b'{"userId":"u%d","sentAt":1,"p":{"a":[1,2.5,true,null],"b":"\xc3\xa9"}}' % number for number in range(4)]
    readable = 0
    for _ in range(1000):
        data = mutated(job.build(b",".join(events), "KEY", "t", EPOCH).encode(), dice)
        found = read_or_reason(data)
        if isinstance(found, str):
            assert found.isprintable()
            assert len(found) < 200
            assert job.without_attempts(data) == data
            with pytest.raises(JobUnreadable):
                job.with_events(data, 0, 1)
            continue
        readable += 1
        assert is_json(request.body([found.events], "2026-01-02T03:04:05.678Z"))
        count = len(found.events)
        parts = (0, count // 2), (count // 2, count)
        halves = [job.read(job.with_events(data, *part).encode()) for part in parts]
        assert [bytes(event) for half in halves for event in half.events] == [bytes(event) for event in found.events]
        again = job.read(job.without_attempts(data))
        assert [bytes(event) for event in again.events] == [bytes(event) for event in found.events]
        for one in (*halves, again):
            assert (one.write_key, one.epoch, one.timeout_s) == (found.write_key, found.epoch, found.timeout_s)
        assert [one.attempts for one in (*halves, again)] == [found.attempts, found.attempts, 0]
    assert readable > 100


def test_a_retried_job_gets_the_write_key_whatever_its_auth_was() -> None:
    """Fields of another SDK stay, and data that has the key already is not changed."""
    old = {"username": "OLD", "password": "p"}
    request = {"data": {"batch": [{"a": 1}]}, "timeout": 5}
    for auth in (old, None, {}):
        inner = {"jobId": "j", "request": {**request, "auth": auth}, "attempts": 3}
        data = json.dumps({"version": 3, "x": 1, "eventData": json.dumps(inner)}).encode()

        changed = job.retried(data, "NEW")

        again = json.loads(changed)
        fields = json.loads(again.pop("eventData"))
        assert again == {"version": 3, "x": 1}
        assert fields.pop("request") == {**request, "auth": {**(auth or {}), "username": "NEW"}}
        assert fields == {"jobId": "j", "attempts": 0}
        assert job.retried(changed.encode(), "NEW") == ""
        assert job.retried(changed.encode(), None) == ""
