"""bull-board shows our queue to an operator and retries our failed jobs."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from native_tests.peers import P, Peers
from rudderpipe.testing.data_plane import Misbehaviour

QUEUE = "rudderEventsQueue"


class Board:
    """A client of bull-board's HTTP interface, which makes the calls of bull-board's page."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Make one call; return its status and its JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, json.loads(body) if body else None

    def queue(self, state: str) -> Any:
        """Return what the tab of a state shows."""
        status, shown = self.ask("GET", f"/api/queues?activeQueue={QUEUE}&status={state}&page=1&jobsPerPage=10")
        assert status == 200
        (queue,) = shown["queues"]
        return queue


@pytest.fixture(name="board")
def _board(peers: Peers) -> Board:
    return Board(peers.node.launch("board").ready()["port"])


def test_bull_board_shows_our_jobs_in_every_state(peers: Peers, board: Board) -> None:
    """The board lists a waiting, an active, a delayed and a failed job, each with what an operator needs to see."""
    peers.plane.misbehaviour = Misbehaviour(401)
    (failed,) = peers.add(1)
    peers.send_all()
    active, waiting = peers.add(2)
    peers.plane.misbehaviour = Misbehaviour(500)
    peers.sender().work()
    (delayed,) = peers.add(1)
    peers.redis.lrem(f"{P}wait", 1, delayed)
    peers.redis.zadd(f"{P}delayed", {delayed: 4_102_444_800_000 * 4096})

    counts = board.queue("latest")["counts"]

    assert {state: counts[state] for state in ("waiting", "active", "delayed", "failed", "completed")} == {
        "waiting": 1, "active": 1, "delayed": 1, "failed": 1, "completed": 0,
    }  # fmt: skip
    jobs = {state: board.queue(state)["jobs"] for state in ("waiting", "active", "delayed", "failed")}
    assert {state: [job["id"] for job in found] for state, found in jobs.items()} == {
        "waiting": [waiting], "active": [active], "delayed": [delayed], "failed": [failed],
    }  # fmt: skip
    # bull-board's adapter for Bull adds one to attemptsMade, for the attempt that it believes to be under way.
    assert [jobs[state][0]["attempts"] for state in ("waiting", "active")] == [1, 2]
    assert jobs["failed"][0]["failedReason"].startswith("status 401: simulated failure")
    assert jobs["failed"][0]["stacktrace"] == [jobs["failed"][0]["failedReason"]]
    assert jobs["failed"][0]["isFailed"] is True
    assert json.loads(jobs["waiting"][0]["data"]["eventData"])["request"]["data"]["batch"][0]["event"] == "Item Viewed"


def test_bull_boards_retry_button_delivers_a_failed_job_of_ours(peers: Peers, board: Board) -> None:
    """The retry of one job and the retry of all failed jobs each lead to one request for every retried job."""
    peers.plane.misbehaviour = Misbehaviour(500)
    one, other, third = peers.add(3)
    peers.send_all(max_attempts=1)
    peers.plane.misbehaviour = Misbehaviour()
    refused = len(peers.seen)

    assert board.ask("PUT", f"/api/queues/{QUEUE}/{other}/retry")[0] in (200, 204)
    peers.send_all()
    assert [event["messageId"] for event in peers.sent()] == ["ours-2", "ours-3"]
    assert board.ask("PUT", f"/api/queues/{QUEUE}/retry/failed")[0] in (200, 204)
    peers.send_all()

    assert len(peers.seen) == refused + 3
    assert peers.plane.stats()["unique_message_ids"] == 6
    assert peers.ids("failed") == []
    assert {one, third}.isdisjoint(peers.ids("wait"))


def test_bull_boards_pause_button_holds_our_sender(peers: Peers, board: Board) -> None:
    """A sender delivers nothing while the page has paused the queue, and delivers everything after the resume."""
    assert board.ask("PUT", f"/api/queues/{QUEUE}/pause")[0] == 200
    peers.add(2)
    sender = peers.sender()
    sender.work()
    assert peers.seen == []
    assert board.queue("paused")["isPaused"] is True

    assert board.ask("PUT", f"/api/queues/{QUEUE}/resume")[0] == 200
    peers.send_all()

    assert peers.plane.stats()["events"] == 4
