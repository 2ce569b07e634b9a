"""Bull 4's own methods, workers and listeners on our queue, with our flusher and sender working on beside them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from native_tests.node_programs import NodeError, NodeProgram
from native_tests.peers import P, Peers, paused
from native_tests.processes import wait_until
from rudderpipe.testing.data_plane import Misbehaviour

QUICK = {"lockDuration": 300, "stalledInterval": 100, "guardInterval": 100}
"""Settings of Bull that make it notice a dead worker soon."""


@pytest.fixture(name="calls")
def _calls(peers: Peers) -> NodeProgram:
    """Bull's Queue, to call its methods."""
    return peers.node.start("calls")


def fail(peers: Peers, jobs: int) -> list[str]:
    """So many jobs of ours that our sender has failed for an answer of 400."""
    peers.plane.misbehaviour = Misbehaviour(401)
    ids = peers.add(jobs)
    peers.send_all()
    peers.plane.misbehaviour = Misbehaviour()
    return ids


def found(jobs: list[Any]) -> list[str]:
    """The ids of jobs that Bull answered."""
    return [job["id"] for job in jobs]


def test_a_plain_bull_worker_takes_our_jobs_in_order(peers: Peers) -> None:
    """Name, data and attempts as Bull's handlers expect them; completed and failed like any other job."""
    ids = peers.add(3)
    worker = peers.node.start("worker")

    jobs = [args[0] for args in worker.heard("job", 3)]

    wait_until(peers.settled)
    assert [job["id"] for job in jobs] == ids == peers.ids("completed")
    assert {(job["name"], job["attemptsMade"]) for job in jobs} == {("__default__", 0)}
    assert [job["data"] for job in jobs] == [json.loads(peers.hash(job_id)["data"]) for job_id in ids]
    assert worker.events("trouble") == []


def test_bull_finds_our_jobs_in_every_state(peers: Peers, calls: NodeProgram) -> None:
    """Getters, counts, ``getJob`` and ``getState``; status says the same numbers."""
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
def test_failed_jobs_that_bull_retries_are_sent_again(peers: Peers, calls: NodeProgram, how: str) -> None:
    """One by one or all at once, in order; a request reaches the data plane for each, and the account balances."""
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


def test_a_queue_that_bull_paused_fills_and_gives_nothing(peers: Peers, calls: NodeProgram) -> None:
    """Our flusher adds to ``paused``, our sender takes nothing; after ``resume`` all arrives in order."""
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


def test_removed_and_cleaned_jobs_are_gone_and_nothing_else(peers: Peers, calls: NodeProgram) -> None:
    """``removeJobs``, ``job.remove`` and ``clean`` of waiting and failed jobs; a job under our lock is refused."""
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


def test_bull_leaves_a_job_alone_that_our_sender_has_just_taken(peers: Peers, calls: NodeProgram) -> None:
    """It is locked from the first moment: not removed, not cleaned, not taken for stalled."""
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


def test_a_job_that_somebody_adds_to_wait_of_a_paused_queue_is_not_sent(peers: Peers, calls: NodeProgram) -> None:
    """A writer that does not know of pausing: our sender keeps to the pause all the same."""
    calls.call("pause")
    (job_id,) = peers.add(1)
    peers.redis.rpoplpush(f"{P}paused", f"{P}wait")

    peers.sender().work()

    assert peers.seen == []
    assert peers.ids("wait") == [job_id]


@pytest.mark.parametrize("how", ["obliterate", "empty"])
def test_after_the_queue_was_thrown_away_it_works_on(peers: Peers, calls: NodeProgram, how: str) -> None:
    """``obliterate`` and ``empty`` under a running flusher and sender; later events arrive, status answers sanely."""
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


def test_bulls_listeners_hear_of_our_jobs(peers: Peers) -> None:
    """waiting, active, completed, failed and stalled, live, with the arguments that Bull's own jobs have."""
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


def test_our_sweep_is_heard_by_bulls_listeners(peers: Peers) -> None:
    """A job that another worker let stall: ``stalled`` once, ``failed`` with Bull's words the second time."""
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
