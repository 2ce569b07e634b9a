"""One queue shared with RudderStack's Node SDK. Both write the same bytes, and either delivers the other's jobs."""

from __future__ import annotations

import json
import re

import pytest

from native_tests.peers import EPOCH, Peers, inner, paused
from native_tests.processes import wait_until
from rudderpipe._version import USER_AGENT
from rudderpipe.queue import job
from rudderpipe.testing.data_plane import Misbehaviour

ODD = {"text": 'ä€😀\u2028\x7f \b\f\u0001"\\/</script>', "lone": "\ud800", "deep": [[{"n": -1.5e-7}], None, True]}


def theirs_waiting(peers: Peers, count: int) -> list[str]:
    """Wait for so many jobs of the Node SDK in the paused queue, and return their ids, oldest first."""
    found: list[str] = wait_until(lambda: len(ids := peers.ids("paused")) >= count and ids)
    return found[::-1]


def neutral(data: str, write_key: str) -> str:
    """Return a job's data with its id, times, agent and the hash in its description replaced."""
    envelope = json.loads(data)
    text: str = envelope["eventData"]
    content = json.loads(text)
    assert re.fullmatch(r"node-([0-9a-f]{32}-)?" + content["jobId"], content["description"])
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", content["jobId"])
    assert content["request"]["auth"] == {"username": write_key}
    text = text.replace(content["description"], "DESCRIPTION").replace(content["jobId"], "ID")
    text = text.replace(content["request"]["headers"]["user-agent"], "AGENT")
    head, _, tail = text.rpartition('"timestamp":')
    envelope["eventData"] = head + '"timestamp":' + re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME", tail)
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))


def test_our_job_has_the_same_bytes_as_one_of_the_node_sdk(peers: Peers) -> None:
    """Both get the same batch. Only ids, times and the agent may differ."""
    calls, sdk = peers.node.start("calls"), peers.sdk('A "KEY" ü')
    calls.call("pause")
    sdk.ask(events=[["track", {"userId": "u", "event": "Odd", "properties": ODD}]])
    (first,) = theirs_waiting(peers, 1)
    theirs = peers.hash(first)
    text = json.loads(theirs["data"])["eventData"]
    batch = re.search(r'"data":\{"batch":\[(.*)\],"timestamp":', text, re.DOTALL)
    assert batch

    ours_data = job.build(batch[1].encode(), 'A "KEY" ü', inner(theirs)["request"]["data"]["sentAt"], EPOCH)
    peers.add_built([(ours_data, 1)])
    ours = peers.hash(peers.ids("paused")[0])

    assert list(json.loads(ours["data"])) == ["version", "eventData"]
    assert neutral(ours["data"], 'A "KEY" ü') == neutral(theirs["data"], 'A "KEY" ü')
    assert ours["data"].encode() == ours_data.encode()
    assert json.loads(text)["request"]["headers"].keys() == inner(ours)["request"]["headers"].keys()
    assert inner(ours)["request"]["headers"]["user-agent"] == USER_AGENT
    assert set(ours) == set(theirs) == {"name", "data", "opts", "timestamp", "delay", "priority"}
    different = {"data", "timestamp", "opts"}
    assert {name: ours[name] for name in ours if name not in different} == {
        name: theirs[name] for name in theirs if name not in different
    }
    for fields in (ours, theirs):
        assert fields["opts"] == f'{{"attempts":1,"delay":0,"timestamp":{fields["timestamp"]}}}'


def test_the_node_sdk_delivers_a_job_of_ours(peers: Peers) -> None:
    """The request has our write key and agent, and only the time of sending is new. The job completes."""
    ids = peers.add(1, events=3)
    peers.sdk()

    peers.processes.delivered(3)
    wait_until(peers.settled)

    (seen,) = peers.seen
    assert (seen.path, seen.write_key, seen.by_node) == ("/v1/batch", "OUR_KEY", True)
    assert seen.headers["user-agent"] == USER_AGENT
    assert seen.headers["content-encoding"] == "gzip"
    assert [event["messageId"] for event in peers.sent()] == ["ours-0", "ours-1", "ours-2"]
    assert peers.ids("completed") == ids
    assert peers.hash(ids[0])["returnvalue"] == "null"


def test_our_sender_delivers_jobs_of_several_node_clients(peers: Peers) -> None:
    """Each client has its own write key, and one has a ``timeout`` in its requests. The order stays."""
    calls = peers.node.start("calls")
    with paused(calls):
        clients = [peers.sdk(key, sdk=extra) for key, extra in (("K1", {}), ("K2", {"timeout": "5s"}))]
        for number, client in enumerate(clients):
            client.ask(track=1, start=number)
            theirs_waiting(peers, number + 1)
        timeouts = [inner(peers.hash(found))["request"].get("timeout") for found in peers.ids("paused")[::-1]]
        peers.kill(*clients)
    assert timeouts == [None, 5000]

    sender = peers.sender_process()

    peers.processes.delivered(2)
    wait_until(peers.settled)
    assert [seen.write_key for seen in peers.seen] == ["K1", "K2"]
    assert not any(seen.by_node for seen in peers.seen)
    assert [event["userId"] for event in peers.sent()] == ["u0", "u1"]
    sender.terminate()
    assert sender.wait(10) == 0


def test_our_sender_adds_to_the_attempts_of_the_node_sdk(peers: Peers) -> None:
    """The Node SDK adds a job again at the front after a 500. An operator's retry resets the attempts."""
    calls = peers.node.start("calls")
    sdk = peers.sdk(sdk={"retryCount": 0})  # turns off the three repetitions of axios
    peers.plane.misbehaviour = Misbehaviour(500, times=1)
    sdk.ask(track=1)
    wait_until(lambda: peers.ids("active"))
    calls.call("pause")
    sdk.ask(track=1, start=1)
    jobs = wait_until(lambda: len(ids := peers.ids("paused")) == 2 and peers.ids("completed") and ids)
    again = jobs[-1]  # it is next in line, although the other job is older
    assert inner(peers.hash(again))["attempts"] == 1
    assert json.loads(peers.hash(again)["opts"])["lifo"] is True
    peers.kill(sdk)
    calls.call("resume")
    peers.plane.misbehaviour = Misbehaviour(500, times=1)

    peers.send_all(max_attempts=2)

    assert peers.ids("failed") == [again]
    fields = peers.hash(again)
    assert "after 2 attempts" in fields["failedReason"]
    assert inner(fields)["attempts"] == 0
    assert [event["userId"] for event in peers.sent()] == ["u1"]
    calls.job(again, "retry")
    peers.send_all(max_attempts=2)
    assert [event["userId"] for event in peers.sent()] == ["u1", "u0"]


def test_the_node_sdk_delivers_retried_jobs_that_our_sender_failed(peers: Peers) -> None:
    """The attempts of our job, and of a job of the Node SDK, were used up before Bull's ``retry``."""
    calls = peers.node.start("calls")
    with paused(calls):
        theirs = peers.sdk(job_options={"maxAttempts": 3})
        theirs.ask(track=1)
        (their_id,) = theirs_waiting(peers, 1)
        peers.kill(theirs)
    (our_id,) = peers.add(1)
    peers.plane.misbehaviour = Misbehaviour(500)
    peers.send_all(max_attempts=1)
    assert set(peers.ids("failed")) == {our_id, their_id}
    refused = len(peers.seen)
    peers.plane.misbehaviour = Misbehaviour()

    for job_id in (our_id, their_id):
        calls.job(job_id, "retry")
    peers.sdk(job_options={"maxAttempts": 1})

    peers.processes.delivered(3)
    wait_until(peers.settled)
    assert [seen.by_node for seen in peers.seen] == [False] * refused + [True, True]
    assert peers.ids("failed") == []


@pytest.mark.parametrize("prefix", ["mine", "{mine}", "{mine"])
def test_a_prefix_means_the_same_keys_as_in_the_node_sdk(peers: Peers, prefix: str) -> None:
    """With braces around it too, the jobs of both are in one queue."""
    counter = f"{{{prefix}}}:rudderEventsQueue:id"
    sdk = peers.sdk(own_prefix=prefix)
    sdk.ask(track=1)
    wait_until(lambda: peers.redis.get(counter) == "1")
    client = peers.processes.client(redis=None)

    client.createPersistenceQueue(
        {"redisOpts": {"unix_socket_path": str(peers.server.socket)}, "prefix": prefix, "isMultiProcessor": True}
    )
    client.track("u", "e")

    wait_until(lambda: peers.redis.get(counter) == "2")
    peers.processes.delivered(2)
