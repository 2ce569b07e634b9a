"""What an operator sees of several queues on several Redis servers, also while one of them is away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from native_tests.processes import Processes, wait_until
from native_tests.test_queues import QUEUES, Servers
from rudderpipe.observe.doctor import run
from rudderpipe.observe.doctor.check import CHECKS, Finding
from rudderpipe.observe.doctor.examination import Examination
from rudderpipe.observe.web.api import Api
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue import seal
from rudderpipe.queue.failed_jobs import FailedJob, FailedJobs, Selection
from rudderpipe.queue.failed_sets import FailedSets
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.route import QueuePlace
from rudderpipe.service.signals import EXIT_OK, EXIT_UNAVAILABLE
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer

PREFIXES = [f"rudder-{place}" for place in range(QUEUES)]


@pytest.fixture(name="servers")
def _servers(directory: Path, processes: Processes) -> Iterator[Servers]:
    servers = Servers(directory, processes)
    processes.start("-m", "rudderpipe.flusher")
    servers.users.send(300)
    servers.wait_for(0, 1, 2)
    yield servers
    servers.end()


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    """Let a server not respond meanwhile."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def queue_at(processes: Processes, place: int) -> Queue:
    """Return one of the queues."""
    return Queue(QueuePlace(PREFIXES[place], place).settings(processes.settings), Clock())


def waiting_in(processes: Processes) -> list[int]:
    """Return the number of jobs that wait in each queue."""
    return [queue_at(processes, place).counts().waiting for place in range(QUEUES)]


def fail_one(processes: Processes, place: int, reason: str) -> str:
    """Let the next job of a queue fail, and return its id."""
    queue = queue_at(processes, place)
    (taken,) = queue.take(1, 1 << 20)
    assert queue.fail(taken, reason)
    queue.close()
    return f"{PREFIXES[place]}:{taken.id}"


def command(processes: Processes, *arguments: str, code: int = EXIT_OK) -> str:
    """Return what a command prints, after a check of its exit code."""
    ended = processes.run("-m", "rudderpipe", *arguments)
    assert ended.returncode == code, ended
    return (ended.stdout + ended.stderr).decode()


def series(processes: Processes, name: str) -> dict[str, float]:
    """Return a metric of each queue, by its prefix."""
    found: list[dict[str, Any]] = msgspec.json.decode(command(processes, "metrics", "--json"))
    own = [each for each in found if each["name"] == name and each["labels"].get("state", "waiting") == "waiting"]
    return {each["labels"]["queue"].partition("}")[0].removeprefix("{"): each["value"] for each in own}


def test_each_queue_is_shown_with_its_place_its_jobs_its_share_and_its_sender(servers: Servers) -> None:
    """The sum stands above them."""
    processes = servers.processes
    jobs = waiting_in(processes)
    queue = queue_at(processes, 1)
    assert Lease(queue, 60_000, identity.address(), lambda _holder: False).take()
    failed = fail_one(processes, 0, "status 400")

    text = command(processes, "status", code=1)
    found = processes.status()

    lines = [line.strip() for line in text.splitlines()]
    at = [f"{server.socket}" for server in servers.all]
    assert "queues    generation 0: 1 queue, no jobs left; generation 1: 3 queues, in use" in lines
    share = [f"{len(servers.expected(place)) / servers.users.sent:.0%} of the events" for place in range(QUEUES)]
    host = identity.address().split(" ")[0]
    for place, (waiting, failures) in enumerate([(jobs[0] - 1, 1), (jobs[1], 0), (jobs[2], 0)]):
        (line,) = [line for line in lines if line.startswith(f"{PREFIXES[place]} at ")]
        assert at[place] in line
        assert f": {waiting} waiting, 0 active, {failures} failed, oldest " in line
        assert share[place] in line
        assert line.endswith("sender " + f"{host} pid {queue_pid()}" if place == 1 else "no sender")
    assert f"{sum(jobs) - 1} waiting" in text
    assert found.events.balanced
    assert [each.code for each in found_findings(servers)] == ["no_sender", "failed_jobs"]
    assert "; the same is true of the queue rudder-2." in text
    assert series(processes, "rudderpipe_queue_jobs") == {
        "rudder": 0,
        **dict(zip(PREFIXES, [jobs[0] - 1, jobs[1], jobs[2]], strict=True)),
    }
    assert series(processes, "rudderpipe_generation_queues") == {"rudder": 1, **dict.fromkeys(PREFIXES, 3)}
    assert sum(series(processes, "rudderpipe_queue_share").values()) == pytest.approx(1)
    top = command(processes, "top", "--once", code=1)
    assert f"{PREFIXES[2]} at {at[2]}/0: {jobs[2]} waiting" in top
    assert failed in command(processes, "failed", "list")
    queue.close()


def queue_pid() -> int:
    """Return the pid of the sender, which is this process."""
    return int(identity.address().split(" ")[1])


def found_findings(servers: Servers) -> list[Any]:
    """Return the findings of the page."""
    flow, _ = Api(servers.processes.settings).flow()
    return msgspec.convert(flow["findings"], list[_Finding])


class _Finding(msgspec.Struct):
    code: str


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_server_that_is_away_is_named_and_the_others_are_shown(servers: Servers, how: str, place: int) -> None:
    """Also the first one, which has the route. The view does not wait for long."""
    processes = servers.processes
    jobs = dict(zip(PREFIXES, waiting_in(processes), strict=True))
    away = servers.all[place]
    if how == "killed":
        away.kill()
        text = command(processes, "status", code=EXIT_UNAVAILABLE)
        found = processes.status_json()
    else:
        with stopped(away):
            text = command(processes, "status", code=EXIT_UNAVAILABLE)
            found = processes.status_json()

    gone = {"rudder", "rudder-0"} if place == 0 else {"rudder-2"}
    rows = {each["prefix"]: each for each in found["queues"]}
    assert {prefix for prefix, row in rows.items() if row["trouble"]} == gone
    assert all(str(away.socket) in rows[prefix]["trouble"] for prefix in gone)
    others = {prefix: row["waiting"] for prefix, row in rows.items() if prefix not in gone and prefix != "rudder"}
    assert others == {prefix: waiting for prefix, waiting in jobs.items() if prefix not in gone}
    assert found["jobs"]["waiting"] == sum(others.values())
    assert [(each["number"], each["away"]) for each in found["jobs"]["generations"]] == [
        (0, int(place == 0)),
        (1, 1),
    ]
    assert (found["events"]["queued"], found["events"]["balanced"]) == (300, True)
    assert found["findings"][0]["code"] == "redis_away"
    assert str(away.socket) in found["findings"][0]["text"]
    assert "events of the others count as queued, or in ring" in text


def test_every_event_has_one_place_while_a_server_is_away(servers: Servers) -> None:
    """The ring holds events for it that the other queues have already, and have delivered."""
    processes = servers.processes
    servers.all[2].kill()
    servers.users.send(300)
    servers.wait_for(0, 1)
    for place in (0, 1):
        queue = queue_at(processes, place)
        while taken := queue.take(1000, 1 << 30):
            queue.complete(taken)
        queue.close()

    events = processes.status().events

    delivered = len(servers.expected(0)) + len(servers.expected(1))
    assert (events.accepted, events.delivered, events.balanced) == (600, delivered, True)
    assert events.in_ring + events.queued == len(servers.expected(2))
    assert min(events.in_ring, events.queued) >= 0


def test_the_doctor_examines_each_server_and_each_queue(servers: Servers) -> None:
    """What it finds names the server or the queue."""
    processes = servers.processes
    servers.all[0].client().set("{rudder-0}:rudderEventsQueue:meta-paused", 1)
    first, second = queue_at(processes, 0), queue_at(processes, 1)
    seal.seal(first, 1)
    servers.all[1].client().config_set("maxmemory-policy", "allkeys-lru")
    servers.all[2].kill()

    found = run.as_json(list(run.run(Examination(processes.settings, environment={}), ["redis"])))["checks"]

    checks = msgspec.convert(found, list[Finding])
    places = [f"{server.socket}/0" for server in servers.all]
    assert [(each.redis, each.state) for each in checks if each.number == 16] == [
        *((place, "ok") for place in places[:2]),
        (places[2], "fail"),
    ]
    assert [each.text.count(each.redis) for each in checks if each.number == 16] == [1, 1, 1]
    assert [(each.redis, each.queue, each.state) for each in checks if each.number == 18] == [
        (places[0], "", "ok"),
        (places[1], "", "fail"),
        (places[2], "", "skip"),
    ]
    assert [(each.queue, each.state) for each in checks if each.number == 22] == [
        ("rudder", "ok"),
        ("rudder-0", "fail"),
        ("rudder-1", "ok"),
        ("rudder-2", "skip"),
    ]
    said = "rudder-0: the queue is paused, and the queues of later generations wait for it"
    (paused,) = [each for each in checks if each.text == said]
    assert (paused.number, paused.queue) == (22, "rudder-0")
    (waits,) = [each for each in checks if each.number == 23 and each.queue == "rudder-1"]
    assert (waits.state, waits.text) == (
        "warn",
        "rudder-1: jobs wait until the queues of earlier generations are drained",
    )
    assert [each.state for each in checks if each.number == 34] == ["skip"]

    seal.open_(second)

    assert [each.is_open for each in processes.status().queues] == [False, False, True, False]
    with closing(Examination(processes.settings, environment={})) as examination:
        lacks = run.finding(CHECKS[23], examination.of("queue")[2])
    assert (lacks.state, lacks.fix) == ("fail", "start a manager of senders: python -m rudderpipe.sender --all")
    first.close()
    second.close()


def test_failed_jobs_of_all_queues_are_one_list(servers: Servers) -> None:
    """An id has the prefix of its queue. Each action reaches the queue, and one that is away is named."""
    processes = servers.processes
    ids = [fail_one(processes, place, f"reason {place}") for place in (0, 1, 2, 0)]

    listed = command(processes, "failed", "list").splitlines()
    assert [line.split()[0] for line in listed] == [*ids, "4"]
    assert "reason 1" in command(processes, "failed", "show", ids[1])
    assert "no failed job has this id" in command(processes, "failed", "show", "1", code=1)
    assert "1 failed job deleted" in command(processes, "failed", "delete", "--id", ids[0])
    assert queue_at(processes, 0).counts().failed == 1
    assert "1 failed job in line again" in command(processes, "failed", "retry", "--reason", "reason 1")
    servers.all[0].kill()
    text = command(processes, "failed", "list", code=EXIT_UNAVAILABLE)
    assert [line.split()[0] for line in text.splitlines()] == [ids[2], "1", "rudderpipe:", "rudderpipe:"]
    assert f"without the failed jobs of {PREFIXES[0]}, which cannot be read" in text
    assert [queue_at(processes, place).counts().failed for place in (1, 2)] == [0, 1]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_of_failed_jobs_have_each_job_once(redis_server: RedisServer, limit: int) -> None:
    """Also where jobs of several queues failed in the same millisecond."""
    redis = redis_server.client()
    queues = [Queue(Settings(redis=redis_server.url, prefix=prefix), Clock()) for prefix in PREFIXES]
    moments = [[1, 5, 5, 5, 9], [5, 5, 7], []]
    for queue, own in zip(queues, moments, strict=True):
        for number, moment_ms in enumerate(own):
            redis.hset(f"{queue.keys.base}{number}", mapping={"data": "x", "failedReason": "why"})
            redis.zadd(queue.keys.failed, {str(number): moment_ms})
    found = FailedSets(dict(zip(PREFIXES, map(FailedJobs, queues), strict=True)), {})

    shown: list[FailedJob] = []
    after = None
    while True:
        page = found.page(Selection(), after, limit)
        assert page.total == 8
        shown += page.jobs
        after = page.next
        if after is None:
            break

    assert [job.failed_at_ms for job in shown] == sorted((each for own in moments for each in own), reverse=True)
    assert {job.id for job in shown} == {job.id for job in found.find(Selection())}
    assert len(shown) == 8
    assert found.away == {}
    with pytest.raises(ValueError, match="not the end of a page"):
        found.page(Selection(), "5:x", limit)
    for queue in queues:
        queue.close()


def test_a_pause_is_that_of_all_queues(servers: Servers) -> None:
    """Of those that can be reached; the others are named."""
    processes = servers.processes

    text = command(processes, "queue", "--pause")

    assert [line.endswith(", paused") for line in text.splitlines() if line.startswith("queue ")] == [True] * 4
    assert all(queue_at(processes, place).counts().paused for place in range(QUEUES))
    servers.all[2].kill()
    said = command(processes, "queue", "--resume", code=EXIT_UNAVAILABLE)
    assert "queue rudder-2 is left as it is: redis at " in said
    assert "queue rudder-2 cannot be read: redis at " in command(processes, "queue", code=EXIT_UNAVAILABLE)
    assert [queue_at(processes, place).counts().paused for place in (0, 1)] == [False, False]
    wait_until(lambda: series(processes, "rudderpipe_redis_up")["rudder-2"] == 0)
