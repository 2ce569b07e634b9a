"""Bull's tools that delete, and ids of any text: what is left is told right."""

from __future__ import annotations

import json

import pytest

from native_tests.node_programs import NodeProgram
from native_tests.peers import Peers
from native_tests.world import wait_until
from rudderpipe.cli.data_plane import Misbehaviour


@pytest.fixture(name="calls")
def _calls(peers: Peers) -> NodeProgram:
    """Bull's Queue, to call its methods."""
    return peers.node.start("calls")


def test_an_id_of_any_text_does_not_stop_a_listener(peers: Peers, calls: NodeProgram) -> None:
    """Bull takes any text as ``jobId``; what we publish about such a job is still JSON that its listeners read."""
    listener = peers.node.start("listener")
    odd = 'a"b\\c é'
    data = json.loads(peers.hash(peers.add(1)[0])["data"])
    calls.call("add", data, {"jobId": odd})

    peers.send_all(max_jobs_per_request=1)
    peers.plane.misbehaviour = Misbehaviour(400)
    calls.call("add", data, {"jobId": odd + "2"})
    peers.send_all()

    assert [args[0] for args in listener.heard("completed", 2)] == ["1", odd]
    assert [args[0] for args in listener.heard("failed", 1)] == [odd + "2"]
    assert listener.events("trouble") == []


def test_the_account_forgets_what_bull_cleaned(peers: Peers, calls: NodeProgram) -> None:
    """``status`` does not say for ever that events are failed or queued which nobody has any more."""
    peers.plane.misbehaviour = Misbehaviour(400)
    peers.add(2)
    peers.send_all()
    waiting = peers.add(1)

    calls.call("clean", 0, "failed")
    calls.call("removeJobs", waiting[0])

    jobs, events = peers.world.status().jobs, peers.world.status().events
    assert jobs is not None
    assert (jobs.waiting, jobs.active, jobs.failed) == (0, 0, 0)
    assert (events.queued, events.failed) == (0, 0)


def test_the_account_forgets_what_bull_obliterated(peers: Peers, calls: NodeProgram) -> None:
    """Events that were thrown away with the whole queue are not queued any more."""
    peers.add(2)

    calls.call("obliterate", {"force": True})

    assert peers.world.status().events.queued == 0


def test_remove_jobs_by_pattern_leaves_a_running_ring_alone(peers: Peers, calls: NodeProgram) -> None:
    """Bull's ``removeJobs`` takes every hash for a job's; our account and positions do not go with them."""
    client = peers.world.client()
    assert client.track("u", "e", {"n": 0})
    peers.world.delivered(1)
    wait_until(lambda: peers.settled() and peers.world.status().events.delivered == 1)
    kept = set(peers.redis.keys("*"))

    calls.call("removeJobs", "*")

    assert {key for key in kept if "account" in key or "ring" in key} <= set(peers.redis.keys("*"))
    assert client.track("u", "e", {"n": 1})
    peers.world.delivered(2)
    events = wait_until(lambda: peers.settled() and peers.world.status().events)
    assert (events.accepted, events.delivered, events.balanced) == (2, 2, True)
