"""One queue with producers and workers of ours and of the Node SDK, with failures and ``kill -9``."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest

from native_tests.node_programs import NodeProgram
from native_tests.peers import P, Peers, paused
from native_tests.processes import wait_until
from rudderpipe.testing.data_plane import Misbehaviour


def assert_all_arrived(peers: Peers, count: int, *, duplicates: int = 0) -> None:
    """Check that so many events arrived, and that no job waits, is active, stalled, locked or failed."""
    peers.processes.delivered(count)
    wait_until(peers.settled)
    stats = peers.plane.stats()
    assert stats["unique_message_ids"] == count
    assert stats["duplicates"] <= duplicates
    assert peers.ids("failed") == []
    jobs = peers.processes.status().queue
    assert jobs is not None
    assert (jobs.waiting, jobs.active, jobs.delayed, jobs.failed) == (0, 0, 0, 0)


def test_both_sdks_on_one_queue_deliver_each_event_once(peers: Peers) -> None:
    """There are two producers, two kinds of workers, and a data plane that fails three requests."""
    peers.processes.explicit |= {"flush_at": 100, "autostart": "flusher"}
    peers.plane.misbehaviour = Misbehaviour(500, times=3)
    sdk = peers.sdk(sdk={"flushAt": 500, "retryCount": 0})
    client = peers.processes.client()
    peers.sender_process()
    sdk.ask(track=1500)
    assert all(client.track("u", "Item Viewed", {"n": number}) for number in range(2000))
    assert client.flush(20)

    assert_all_arrived(peers, 3500)

    assert peers.plane.stats()["events"] == 3500
    assert {seen.by_node for seen in peers.seen} == {True, False}
    assert {seen.write_key for seen in peers.seen} == {"NODE_KEY", "WRITE_KEY"}
    assert peers.plane.stats()["refused"] == 3


@pytest.mark.parametrize("victim", ["node", "ours"])
def test_a_killed_workers_job_is_delivered_by_the_other_sdk(peers: Peers, victim: str) -> None:
    """Its lock lapses, and the stalled check of the other side finds the job."""
    calls = peers.node.start("calls")
    with paused(calls):
        producer = peers.sdk()
        producer.ask(track=3)
        wait_until(lambda: len(peers.ids("paused")) == 2)  # the first event makes a job by itself
        peers.kill(producer)
        peers.add(3)
    peers.plane.misbehaviour = Misbehaviour(500)
    held = kill_while_it_holds_a_job(peers, peers.sdk() if victim == "node" else peers.sender_process())
    peers.plane.misbehaviour = Misbehaviour()
    before = len(peers.seen)
    if victim == "node":
        peers.sender_process()
    else:
        peers.sdk()

    peers.processes.delivered(8)
    wait_until(lambda: peers.ids("active") == [held])
    peers.let_time_pass()
    if victim == "node":
        assert peers.sweep() == 1
    else:
        for _ in range(2):
            peers.redis.delete(f"{P}stalled-check")
            calls.call("moveUnlockedJobsToWait")

    assert_all_arrived(peers, 9)
    assert {seen.by_node for seen in peers.seen[before:]} == {victim == "ours"}


def kill_while_it_holds_a_job(peers: Peers, worker: NodeProgram | subprocess.Popen[bytes]) -> str:
    """Kill the worker while it holds a job, and return the id of that job."""
    wait_until(lambda: peers.ids("active") and peers.redis.keys(f"{P}*:lock"))
    process: Any = worker.process if isinstance(worker, NodeProgram) else worker
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    (held,) = peers.ids("active")
    assert held == "1"
    assert peers.redis.exists(f"{P}{held}:lock")
    return held
