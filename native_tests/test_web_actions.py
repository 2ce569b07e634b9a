"""What the page of ``rudderpipe web`` shows and does, on a real pipe: failed jobs, the queue, the log of actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from native_tests.processes import Processes, wait_until
from native_tests.web_server import BEARER, TOKEN, WebServer
from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.dead_letters import Record
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.job import build
from rudderpipe.queue.queue import Queue
from rudderpipe.ring.layout import REFUSALS
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

P = "{rudder}:rudderEventsQueue:"
Start = Callable[..., WebServer]


@pytest.fixture(name="pipe")
def _pipe(processes: Processes, redis_server: RedisServer) -> Processes:
    """Return a pipe with a queue."""
    processes.explicit["redis"] = redis_server.url
    return processes


@pytest.fixture(name="start")
def _start(processes: Processes, directory: Path) -> Start:
    """Return a function that starts the page of the pipe."""
    return lambda *options: WebServer(processes, directory, *options, token=TOKEN)


@pytest.fixture(name="queue")
def _queue(pipe: Processes) -> Iterator[Queue]:
    queue = Queue(pipe.settings, Clock())
    yield queue
    queue.close()


def fail(queue: Queue, *reasons: str) -> None:
    """Put a job with one event into the failed set for each reason."""
    for start in range(0, len(reasons), 1000):
        part = reasons[start : start + 1000]
        data = [(build(b'{"type":"track","userId":"u%d"}' % (start + n), "KEY", "t", 1), 1) for n in range(len(part))]
        queue.add(1, data, {}, [])
        for taken, reason in zip(queue.take(1000, 100_000_000), part, strict=True):
            assert queue.fail(taken, reason)


def test_the_flow_is_that_of_the_pipe(pipe: Processes, start: Start) -> None:
    """Every part of it, and its totals move."""
    client = pipe.client()
    assert all(client.track("u", "e") for _ in range(25))
    assert client.flush(30, until="delivered")
    assert not client.track("u", "")
    web = start()

    flow = web.get("/api/flow").json

    assert set(flow) == {
        *("pipe", "host", "version", "mode", "queue", "redis", "data_plane", "taken_at_ms", "taken_at_s", "access"),
        *("shows_events", "can_log_in", "verdict", "findings", "producers", "ring", "queue_state", "queue_trouble"),
        *("queues", "generations", "sender", "account", "dead_letters", "spill"),
    }
    assert (flow["mode"], flow["pipe"]) == ("redis", pipe.settings.pipe_name)
    assert (flow["producers"]["accepted"], flow["producers"]["processes"]) == (25, 1)
    assert set(flow["producers"]["refused_by_reason"]) == set(REFUSALS)
    assert flow["account"] | {"queued": 0} == flow["account"]
    wait_until(lambda: web.get("/api/flow").json["account"]["delivered"] == 25)
    (producer,) = web.get("/api/producers").json["producers"]
    assert (producer["accepted"], producer["refused"], producer["up_s"] > 0) == (25, {"invalid": 1}, True)


def test_an_unchanged_flow_is_not_sent_again(pipe: Processes, start: Start, queue: Queue) -> None:
    """The page asks every second. What a visitor may do belongs to it."""
    client = pipe.client(autostart=False)
    web = start()
    tag = web.get("/api/flow").headers["etag"]

    same = web.get("/api/flow", If_None_Match=f'W/"other", {tag}')
    other = web.get("/api/flow", If_None_Match=tag, **BEARER)
    client.track("u", "e")

    assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
    assert (other.status, other.json["access"]) == (200, "all")
    wait_until(lambda: web.get("/api/flow").json["account"]["in_ring"] == 1)
    assert web.get("/api/flow", If_None_Match=tag).status == 200
    assert queue.counts().waiting == 0


def test_the_history_has_the_totals(pipe: Processes, start: Start) -> None:
    """The process notes them by itself, and keeps them in memory."""
    client = pipe.client(autostart=False)
    assert client.track("u", "e")
    web = start()

    history = wait_until(lambda: (found := web.get("/api/history").json)["points"] and found)

    assert history["interval_s"] == 10
    (taken_at_ms, accepted, delivered, refused, _retries, oldest_s) = history["points"][0]
    assert taken_at_ms > 1_600_000_000_000
    assert (accepted, delivered, refused) == (1, 0, 0)
    assert oldest_s >= 0


def test_the_doctor_says_what_the_command_says(pipe: Processes, start: Start) -> None:
    """Its checks and their order are the same."""
    web = start()

    found = web.get("/api/doctor").json

    printed = msgspec.json.decode(pipe.run("-m", "rudderpipe", "doctor", "--json").stdout)
    assert [each["check"] for each in found["checks"]] == [each["check"] for each in printed["checks"]]
    assert set(found) == set(printed)


def test_failed_jobs_are_filtered_newest_first(start: Start, queue: Queue) -> None:
    """By a part of the reason, and by the time since when."""
    fail(queue, "400 bad", "401 KEY", "400 Bad")
    web = start()

    page = web.get("/api/failed").json
    since_ms = page["jobs"][1]["failed_at_ms"]

    assert [job["id"] for job in page["jobs"]] == ["3", "2", "1"]
    assert page["jobs"][0] | {"events": 1, "readable": True, "reason": "400 Bad"} == page["jobs"][0]
    assert [job["id"] for job in web.get("/api/failed?q=400+BAD").json["jobs"]] == ["3", "1"]
    assert web.get("/api/failed?q=400.bad").json["total"] == 0
    assert web.get(f"/api/failed?since_ms={since_ms}").json["total"] == len(
        [job for job in page["jobs"] if job["failed_at_ms"] >= since_ms]
    )
    assert web.get("/api/failed?since_ms=99999999999999").json["total"] == 0


def test_chosen_jobs_are_retried_and_deleted(pipe: Processes, start: Start, queue: Queue) -> None:
    """Each action is one line of the log: who, from where, what and how many."""
    fail(queue, "no", "no", "no")
    web = start()
    browser = web.log_in()
    session = browser["Cookie"].partition("=")[2]

    retried = web.post("/api/failed/retry", {"ids": ["2", "9"]}, **browser).json
    deleted = web.post("/api/failed/delete", {"ids": ["1"]}, **browser).json

    assert retried == {"changed": 1, "left_alone": 1, "more": False, "after": None}
    assert deleted == {"changed": 1, "left_alone": 0, "more": False, "after": None}
    assert [job.id for job in FailedJobs(queue)] == ["3"]
    assert (queue.counts().waiting, queue.counts().events_removed) == (1, 1)
    lines = [line.partition(" rudderpipe.web ")[2] for line in web.log.splitlines()]
    who = f"by={session[:8]} from=127.0.0.1"
    assert lines == [
        f"INFO login {who}",
        f"INFO failed jobs retried {who} jobs=1 left_alone=1",
        f"INFO failed jobs deleted {who} jobs=1 left_alone=0",
    ]
    assert session not in web.log
    assert pipe.settings.redis is not None


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"all": False, "count": 3},
        {"ids": []},
        {"ids": ["1"], "all": True, "count": 3},
        {"ids": ["1"] * 1001},
        {"ids": "1"},
        {"ids": [1]},
        {"all": "yes", "count": 3},
        {"all": True, "after": "x"},
        {"all": True, "after": "x:y"},
        {"all": True, "count": 3, "q": "x" * 201},
    ],
)
def test_an_unclear_wish_changes_nothing(start: Start, queue: Queue, wanted: Any) -> None:
    """A mistake must not delete what the person did not mean."""
    fail(queue, "a", "b", "c")
    web = start()

    for path in ("retry", "delete"):
        assert web.post(f"/api/failed/{path}", wanted).status == 400

    assert queue.counts().failed == 3


@pytest.mark.parametrize("count", [2, 4, 0, None])
def test_all_jobs_need_their_number(start: Start, queue: Queue, count: int | None) -> None:
    """Jobs that failed since the person looked are not meant."""
    fail(queue, "a", "b", "c")
    web = start()

    reply = web.post("/api/failed/delete", {"all": True, "count": count})

    assert (reply.status, reply.json) == (409, {"error": "There are 3 such jobs now; look at them again."})
    assert queue.counts().failed == 3


@pytest.mark.parametrize("action", ["retry", "retry first", "delete"])
def test_all_jobs_go_in_calls_of_a_thousand(start: Start, queue: Queue, redis_server: RedisServer, action: str) -> None:
    """The order stays. Jobs that are left alone do not come again, and jobs that fail meanwhile stay."""
    fail(queue, *["no"] * 2300, "other")
    redis: Any = redis_server.text_client()
    redis.set(f"{P}5:lock", "another program")
    web = start()
    path = f"/api/failed/{action.partition(' ')[0]}"
    wanted: dict[str, Any] = {"all": True, "q": "NO", "first": action == "retry first"}

    replies = [web.post(path, {**wanted, "count": 2300}).json]
    fail_late(queue)
    while replies[-1]["more"]:
        replies.append(web.post(path, {**wanted, "after": replies[-1]["after"]}).json)
        assert len(replies) < 10

    assert sum(reply["changed"] for reply in replies) == 2299
    assert replies[0]["changed"] in (999, 1000)
    assert len(replies) == 3
    left = {job.id for job in FailedJobs(queue)}
    assert left == {"5", "2301", "late"}
    line = redis.lrange(f"{P}wait", 0, -1)[::-1]
    assert line == ([] if action == "delete" else [str(number) for number in range(1, 2301) if number != 5])


def fail_late(queue: Queue) -> None:
    """Have one more job fail, an hour from now."""
    name = queue.keys.base
    queue.ask(lambda pipe: [pipe.copy(f"{name}2301", f"{name}late"), pipe.hset(f"{name}late", "failedReason", "no")])
    queue.ask(lambda pipe: pipe.zadd(queue.keys.failed, {"late": Clock().time_ms() + 3_600_000}))


def test_a_paused_queue_gives_nothing_until_it_is_resumed(pipe: Processes, start: Start) -> None:
    """The sender's process obeys, and events are still accepted."""
    web = start()
    assert web.post("/api/queue/pause", {}).json == {"paused": True}
    client = pipe.client()
    assert all(client.track("u", "e") for _ in range(20))
    assert client.flush(30, until="queued")
    wait_until(lambda: web.get("/api/flow").json["queue_state"]["paused"])
    assert pipe.plane.stats()["unique_message_ids"] == 0

    assert web.post("/api/queue/resume", {}).json == {"paused": False}

    pipe.delivered(20)
    assert "INFO queue paused by=token" in web.log
    assert "INFO queue resumed by=token" in web.log


def test_the_command_pauses_and_resumes_too(pipe: Processes, start: Start, queue: Queue) -> None:
    """It is one pause, whoever sets it."""
    paused = pipe.run("-m", "rudderpipe", "queue", "--pause")
    web = start()
    shown = web.get("/api/flow").json["queue_state"]["paused"]
    assert web.post("/api/queue/resume", {}).status == 200
    resumed = msgspec.json.decode(pipe.run("-m", "rudderpipe", "queue", "--resume", "--json").stdout)
    both = pipe.run("-m", "rudderpipe", "queue", "--resume", "--pause")

    assert paused.returncode == 0
    assert paused.stdout.decode().splitlines()[0].endswith("0 failed, paused")
    assert (shown, resumed["paused"], both.returncode, queue.counts().paused) == (True, False, 2, False)


def test_jobs_that_are_too_many_to_search_are_not_changed(start: Start, queue: Queue) -> None:
    """A filter by reason looks at the newest 20,000 jobs only, so it would not be what the person means."""
    queue.ask(lambda pipe: pipe.zadd(queue.keys.failed, {f"x{number}": number for number in range(20_001)}))
    web = start()

    page = web.get("/api/failed?q=reason&limit=1").json
    reply = web.post("/api/failed/delete", {"all": True, "q": "reason", "count": page["total"]})

    assert (page["total"], page["searched_at_most"]) == (20_000, 20_000)
    assert (reply.status, "--reason" in reply.json["error"]) == (400, True)
    assert web.get("/api/failed?limit=1").json["total"] == 20_001


@pytest.mark.parametrize("action", ["retry", "delete"])
def test_without_a_queue_the_dead_letters_are_the_failed_jobs(processes: Processes, start: Start, action: str) -> None:
    """They are shown, retried and deleted in the same way."""
    processes.plane.misbehaviour = Misbehaviour(400)
    client = processes.client(flush_at=1)
    assert all(client.track("u", "e", {"n": number}) for number in range(3))
    letters = dead_letters.of(processes.settings)
    wait_until(lambda: len(letters.names()) == 3)
    processes.plane.misbehaviour = Misbehaviour()
    web = start("--show-events")

    page = web.get("/api/failed?limit=2").json
    rest = web.get(f"/api/failed?limit=2&after={page['next']}").json
    ids = [job["id"] for job in (*page["jobs"], *rest["jobs"])]
    shown = web.get(f"/api/failed/{ids[0]}").json
    changed = web.post(f"/api/failed/{action}", {"ids": ids[:1]}).json
    first = web.post("/api/failed/retry", {"ids": ids[1:], "first": True})
    everything = web.post(f"/api/failed/{action}", {"all": True, "count": 2}).json

    assert (page["total"], rest["next"], len(set(ids))) == (3, None, 3)
    assert [message["properties"]["n"] for message in shown["messages"]] == [2]
    assert (changed["changed"], everything["changed"], first.status) == (1, 2, 400)
    assert letters.names() == []
    assert web.get("/api/failed?limit=2&after=x").json["jobs"] == []
    assert web.post("/api/queue/pause", {}).status == 400
    if action == "retry":
        processes.delivered(3)


def test_a_retry_into_a_ring_that_nobody_empties_ends(processes: Processes, start: Start, directory: Path) -> None:
    """It says so, and the batch stays a dead letter."""
    processes.explicit |= {"autostart": False, "max_internal_queue_size": 5}
    assert all(processes.client().track("u", "e") for _ in range(5))
    letters = dead_letters.of(processes.settings)
    letters.keep(Record("a-1", 5, "no", 0, [msgspec.Raw(b'{"type":"track"}')]))
    web = start()

    reply = web.post("/api/failed/retry", {"ids": ["a-1"]})

    assert (reply.status, reply.json) == (
        503,
        {"error": "full: max_internal_queue_size allows no further event in the ring"},
    )
    assert len(letters.names()) == 1
    assert directory.exists()
