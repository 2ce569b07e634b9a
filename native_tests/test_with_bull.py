"""Bull 4's own methods, workers and listeners on our queue, beside our flusher and sender."""

from __future__ import annotations

import json
from typing import Any

import pytest

from native_tests.node_programs import NodeError, NodeProgram
from native_tests.peers import P, Peers, paused
from native_tests.processes import wait_until
from rudderpipe.process.clock import Clock
from rudderpipe.queue.pause import set_paused
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.data_plane import Misbehaviour

QUICK = {"lockDuration": 300, "stalledInterval": 100, "guardInterval": 100}
"""Settings of Bull that make it find a dead worker soon."""


@pytest.fixture(name="calls")
def _calls(peers: Peers) -> NodeProgram:
    """Start a program that calls the methods of Bull's Queue."""
    return peers.node.start("calls")


def fail(peers: Peers, jobs: int) -> list[str]:
    """Return the ids of so many jobs of ours, which our sender has failed because of a 401."""
    peers.plane.misbehaviour = Misbehaviour(401)
    ids = peers.add(jobs)
    peers.send_all()
    peers.plane.misbehaviour = Misbehaviour()
    return ids


def found(jobs: list[Any]) -> list[str]:
    """Return the ids of the jobs that Bull returned."""
    return [job["id"] for job in jobs]


def test_a_plain_bull_worker_takes_our_jobs_in_order(peers: Peers) -> None:
    """Name, data and attempts must be what Bull's handlers expect, and the jobs complete like any others."""
    ids = peers.add(3)
    worker = peers.node.start("worker")

    jobs = [args[0] for args in worker.heard("job", 3)]

    wait_until(peers.settled)
    assert [job["id"] for job in jobs] == ids == peers.ids("completed")
    assert {(job["name"], job["attemptsMade"]) for job in jobs} == {("__default__", 0)}
    assert [job["data"] for job in jobs] == [json.loads(peers.hash(job_id)["data"]) for job_id in ids]
    assert worker.events("trouble") == []


def test_bull_finds_our_jobs_in_every_state(peers: Peers, calls: NodeProgram) -> None:
    """Bull's getters, its counts and our status must show the same."""
    (failed,) = fail(peers, 1)
    active, *waiting = peers.add(3)
    peers.plane.misbehaviour = Misbehaviour(500)
    peers.sender().work()
    calls.ask(call="add", args=[{"version": 3}, {"delay": 3_600_000}])

    counts = {"waiting": 2, "active": 1, "completed": 0, "failed": 1, "delayed": 1, "paused": 0}
    assert calls.call("getJobCounts") == counts
    assert found(calls.call("getWaiting")) == waiting
    assert found(calls.call("getActive")) == [active]
    assert found(calls.call("getFailed")) == [failed]
    assert found(calls.call("getCompleted")) == []
    assert [job["delay"] for job in calls.call("getDelayed")] == [3_600_000]
    states = {job_id: calls.job(job_id, "getState") for job_id in (failed, active, *waiting)}
    assert states == {failed: "failed", active: "active", waiting[0]: "waiting", waiting[1]: "waiting"}
    assert calls.call("getJob", active)["attemptsMade"] == 1
    job = calls.call("getJob", failed)
    assert job["failedReason"].startswith("status 401: simulated failure")
    assert job["stacktrace"] == [job["failedReason"]]
    assert (job["name"], job["returnvalue"]) == ("__default__", None)
    assert job["processedOn"] <= job["finishedOn"]
    assert job["data"] == json.loads(peers.hash(failed)["data"])
    jobs = peers.processes.status().queue
    assert jobs is not None
    assert (jobs.waiting, jobs.active, jobs.delayed, jobs.failed) == (2, 1, 1, 1)


@pytest.mark.parametrize("how", ["retry", "retryJobs"])
def test_our_sender_delivers_failed_jobs_that_bull_retries(peers: Peers, calls: NodeProgram, how: str) -> None:
    """Bull retries one job or all of them. Each causes one request, the order stays, and the account balances."""
    ids = fail(peers, 3)
    requests = len(peers.seen)
    events = peers.processes.status().events
    assert (events.queued, events.delivered, events.failed) == (0, 0, 6)

    if how == "retry":
        for job_id in ids:
            calls.job(job_id, "retry")
    else:
        calls.call("retryJobs", {"count": 2})
    peers.send_all()

    assert [event["properties"]["n"] for event in peers.sent()] == list(range(6))
    assert len(peers.seen) == requests + 3
    events = peers.processes.status().events
    assert (events.queued, events.delivered, events.failed) == (0, 6, 0)
    assert events.balanced


def test_a_queue_that_bull_paused_takes_jobs_and_gives_none(peers: Peers, calls: NodeProgram) -> None:
    """Our flusher adds to ``paused``, and our sender takes nothing until ``resume``."""
    client = peers.processes.client()
    with paused(calls):
        assert all(client.track("u", "e", {"n": number}) for number in range(100))
        assert client.flush(10)
        status = wait_until(lambda: (now := peers.processes.status()).queue and now.queue.waiting == 5 and now)
        assert status.queue.paused
        assert status.events.queued == 100
        assert status.events.balanced
        assert calls.call("getJobCounts")["paused"] == 5
        assert calls.call("isPaused") is True
        taker = peers.sender()
        taker.work()
        assert peers.seen == []

    peers.processes.delivered(100)
    wait_until(peers.settled)
    assert peers.plane.stats()["duplicates"] == 0
    assert [event["properties"]["n"] for event in peers.sent()] == list(range(100))


def test_bull_obeys_and_ends_our_pause(peers: Peers, calls: NodeProgram) -> None:
    """Its worker takes nothing, its counts show it, and its ``resume`` and ours are one thing."""
    queue = Queue(peers.processes.settings, Clock())
    ids = peers.add(2)
    set_paused(queue, pauses=True)
    assert calls.call("isPaused") is True
    assert calls.call("getJobCounts")["paused"] == 2
    worker = peers.node.start("worker")
    calls.call("resume")

    jobs = [args[0]["id"] for args in worker.heard("job", 2)]

    assert jobs == ids
    assert not queue.counts().paused
    calls.call("pause")
    assert queue.counts().paused
    set_paused(queue, pauses=False)
    assert calls.call("isPaused") is False
    queue.close()


def test_bull_can_remove_and_clean_our_jobs_but_not_an_active_one(peers: Peers, calls: NodeProgram) -> None:
    """``removeJobs``, ``job.remove`` and ``clean`` must delete no other job."""
    failed = fail(peers, 2)
    first, second, third, fourth = peers.add(4)
    peers.plane.misbehaviour = Misbehaviour(500, times=1)
    sender = peers.sender()
    sender.work()

    with pytest.raises(NodeError, match=f"Could not remove job {first}"):
        calls.job(first, "remove")
    calls.call("removeJobs", second)
    calls.job(third, "remove")
    cleaned = calls.call("clean", 0, "failed")

    assert set(cleaned) == set(failed)
    assert calls.call("getJobCounts") == {
        "waiting": 1, "active": 1, "completed": 0, "failed": 0, "delayed": 0, "paused": 0,
    }  # fmt: skip
    wait_until(lambda: sender.work() is not None and peers.settled())
    assert [event["properties"]["n"] for event in peers.sent()] == [4, 5, 10, 11]
    assert not peers.redis.keys(f"{P}[0-9]*")
    assert fourth not in peers.ids("wait")


def test_bull_leaves_a_job_alone_that_our_sender_has_taken(peers: Peers, calls: NodeProgram) -> None:
    """The job is locked from the first moment, so Bull neither removes nor cleans nor recovers it."""
    taken = peers.add(2)
    assert peers.take() == taken

    with pytest.raises(NodeError, match="Could not remove job 1"):
        calls.job("1", "remove")
    calls.call("clean", 0, "active")
    calls.call("moveUnlockedJobsToWait")
    peers.redis.delete(f"{P}stalled-check")
    calls.call("moveUnlockedJobsToWait")

    assert found(calls.call("getActive")) == taken
    assert peers.ids("wait") == []


def test_our_sender_takes_no_job_from_wait_while_the_queue_is_paused(peers: Peers, calls: NodeProgram) -> None:
    """A writer that ignores the pause adds to ``wait``."""
    calls.call("pause")
    (job_id,) = peers.add(1)
    peers.redis.rpoplpush(f"{P}paused", f"{P}wait")

    peers.sender().work()

    assert peers.seen == []
    assert peers.ids("wait") == [job_id]


@pytest.mark.parametrize("how", ["obliterate", "empty"])
def test_a_queue_works_again_after_obliterate_and_empty(peers: Peers, calls: NodeProgram, how: str) -> None:
    """A flusher and a sender run all the time. Later events must arrive, and no count may be negative."""
    client = peers.processes.client()
    assert client.track("u", "e", {"n": 0})
    peers.processes.delivered(1)
    calls.call("pause")
    assert client.track("u", "e", {"n": 1})
    assert client.flush(10)
    wait_until(lambda: peers.ids("paused"))

    if how == "obliterate":
        calls.call("obliterate", {"force": True})
        assert not peers.redis.keys(f"{P}[0-9]*")
    else:
        calls.call("empty")
    calls.call("resume")
    assert client.track("u", "e", {"n": 2})

    peers.processes.delivered(2)
    wait_until(peers.settled)
    assert [event["properties"]["n"] for event in peers.sent()] == [0, 2]
    status = peers.processes.status()
    assert status.queue is not None
    assert (status.queue.waiting, status.queue.active, status.queue.failed) == (0, 0, 0)
    assert all(number >= 0 for number in (status.events.in_ring, status.events.queued, status.events.delivered))


def test_bulls_listeners_get_messages_about_our_jobs(peers: Peers) -> None:
    """They get the arguments that Bull's own jobs have."""
    listener = peers.node.start("listener")
    ours, refused = peers.add(2)
    peers.plane.misbehaviour = Misbehaviour(401, times=1)

    sender = peers.send_all(max_jobs_per_request=1)

    assert listener.heard("waiting", 2) == [[ours, None], [refused, None]]
    assert listener.heard("active", 2) == [[ours, "waiting"], [refused, "waiting"]]
    reason = peers.hash(ours)["failedReason"]
    assert listener.heard("failed", 1) == [[ours, reason, "active"]]
    assert listener.heard("completed", 1) == [[refused, "null", "active"]]
    (stalling,) = peers.add(1)
    peers.plane.misbehaviour = Misbehaviour(500)
    sender.work()
    peers.let_time_pass()
    peers.node.start("worker", bull=QUICK)
    assert listener.heard("stalled", 1) == [[stalling]]
    assert listener.events("trouble") == []


def test_bulls_listeners_get_messages_about_our_sweep(peers: Peers) -> None:
    """The job of a dead worker stalls once, and fails with Bull's own reason the second time."""
    listener = peers.node.start("listener")
    (stalling,) = peers.add(1)
    for time in range(2):
        worker = peers.node.start("worker", then="hold")
        worker.heard("job", 1)
        worker.kill()
        peers.let_time_pass()
        peers.sweep()
        if not time:
            assert listener.heard("stalled", 1) == [[stalling]]

    assert listener.heard("failed", 1) == [[stalling, "job stalled more than maxStalledCount", "active"]]
    assert peers.ids("failed") == [stalling]
    assert peers.ids("active") == []
