"""Bull's tools may delete jobs, and ids may be any text. The counts that we show stay correct."""

from __future__ import annotations

import json

import pytest

from native_tests.node_programs import NodeProgram
from native_tests.peers import P, Peers, paused
from native_tests.processes import wait_until
from rudderpipe.testing.data_plane import Misbehaviour


@pytest.fixture(name="calls")
def _calls(peers: Peers) -> NodeProgram:
    """Start a program that calls the methods of Bull's Queue."""
    return peers.node.start("calls")


def test_an_id_of_any_text_does_not_stop_a_listener(peers: Peers, calls: NodeProgram) -> None:
    """Bull takes any text as ``jobId``, so the messages about such a job must still be JSON that listeners can read."""
    listener = peers.node.start("listener")
    odd = 'a"b\\c é'
    data = json.loads(peers.hash(peers.add(1)[0])["data"])
    calls.call("add", data, {"jobId": odd})

    peers.send_all(max_jobs_per_request=1)
    peers.plane.misbehaviour = Misbehaviour(401)
    calls.call("add", data, {"jobId": odd + "2"})
    peers.send_all()

    assert [args[0] for args in listener.heard("completed", 2)] == ["1", odd]
    assert [args[0] for args in listener.heard("failed", 1)] == [odd + "2"]
    assert listener.events("trouble") == []


def test_the_account_forgets_what_bull_cleaned(peers: Peers, calls: NodeProgram) -> None:
    """``status`` must not report deleted events as failed or queued forever."""
    peers.plane.misbehaviour = Misbehaviour(401)
    peers.add(2)
    peers.send_all()
    waiting = peers.add(1)

    calls.call("clean", 0, "failed")
    calls.call("removeJobs", waiting[0])

    jobs, events = peers.processes.status().queue, peers.processes.status().events
    assert jobs is not None
    assert (jobs.waiting, jobs.active, jobs.failed) == (0, 0, 0)
    assert (events.queued, events.failed) == (0, 0)


def test_the_account_forgets_what_bull_obliterated(peers: Peers, calls: NodeProgram) -> None:
    """Events that were deleted with the whole queue are no longer queued."""
    peers.add(2)

    calls.call("obliterate", {"force": True})

    assert peers.processes.status().events.queued == 0


def test_bulls_remove_jobs_by_pattern_leaves_a_running_ring_alone(peers: Peers, calls: NodeProgram) -> None:
    """Bull's ``removeJobs`` takes every hash for a job's. The account and the ring's offsets must outlive it."""
    client = peers.processes.client()
    assert client.track("u", "e", {"n": 0})
    peers.processes.delivered(1)
    wait_until(lambda: peers.settled() and peers.processes.status().events.delivered == 1)
    kept = set(peers.redis.keys(f"{P}*"))

    calls.call("removeJobs", "*")

    assert {key for key in kept if "account" in key or "ring" in key} <= set(peers.redis.keys(f"{P}*"))
    assert client.track("u", "e", {"n": 1})
    peers.processes.delivered(2)
    events = wait_until(lambda: peers.settled() and peers.processes.status().events)
    assert (events.accepted, events.delivered, events.balanced) == (2, 2, True)


def test_the_account_counts_events_that_the_node_sdk_delivered(peers: Peers) -> None:
    """Events of ours that another SDK delivered must not be shown as queued forever."""
    peers.add(1, events=3)
    peers.sdk()
    peers.processes.delivered(3)
    wait_until(peers.settled)

    events = peers.processes.status().events

    assert (events.queued, events.failed) == (0, 0)
    assert events.elsewhere == 3


def test_half_a_surrogate_pair_from_the_node_sdk_is_delivered(peers: Peers, calls: NodeProgram) -> None:
    """JavaScript that cuts a text within an emoji makes half a pair.

    The Node SDK writes it as an escape and delivers it.
    """
    with paused(calls):
        sdk = peers.sdk()
        sdk.ask(events=[["track", {"userId": "u", "event": "cut", "properties": {"text": "\ud83d"}}]])
        wait_until(lambda: peers.ids("paused"))
        peers.kill(sdk)

    peers.send_all()

    assert peers.ids("failed") == []
    assert b'"text":"\\ufffd"' in peers.plane.last_events()[0]
