"""``rudderpipe failed`` as an operator types it, after a data plane refused events and a working one took its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, wait_until
from rudderpipe.queue.keys import Keys
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

P = Keys("rudder", "rudderEventsQueue").base


@pytest.fixture(name="redis")
def _redis(redis_server: RedisServer) -> Any:
    return redis_server.text_client()


@pytest.fixture(name="failing")
def _failing(processes: Processes, redis_server: RedisServer) -> Processes:
    """Yield processes with five failed jobs of one event each, which the data plane refused with 401.

    No sender runs.
    """
    processes.explicit |= {"redis": redis_server.url, "flush_at": 1, "linger_s": 0.1}
    processes.plane.misbehaviour = Misbehaviour(401)
    client = processes.client()
    for number in range(5):
        assert client.track(f"u{number}", "e", {"n": number})
    wait_until(lambda: processes.status().events.failed == 5)
    client.shutdown()
    wait_until(lambda: processes.status().ring is None and not processes.own_processes())
    processes.plane.misbehaviour = Misbehaviour()
    return processes


def command(processes: Processes, *arguments: str) -> tuple[int, str, str]:
    """Run ``rudderpipe failed``; return its exit code, standard output and standard error."""
    done = processes.run("-m", "rudderpipe", "failed", *arguments)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_failed_list_shows_each_failed_job_and_the_sum(failing: Processes, redis: Any) -> None:
    """The options select jobs. The output must hold no write key, no payload and no control character."""
    redis.hset(f"{P}2", "failedReason", "status 413\x1b[2J: too large")

    code, output, _ = command(failing, "list")
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == ["1", "2", "3", "4", "5", "5"]
    assert output.splitlines()[-1] == "5 failed jobs, 5 events"
    assert "401" in output
    assert "WRITE_KEY" not in output
    assert "\x1b" not in output

    assert command(failing, "list", "--reason", "TOO LARGE")[1].splitlines()[-1] == "1 failed job, 1 event"
    assert command(failing, "list", "--since", "1h", "--limit", "2")[1].splitlines()[-1] == (
        "5 failed jobs, 5 events, the first 2 shown"
    )
    assert command(failing, "list", "--since", "2999-01-01")[1].splitlines() == ["0 failed jobs, 0 events"]
    rows = [json.loads(line) for line in command(failing, "list", "--json", "--id", "3", "--id", "99")[1].splitlines()]
    assert [(row["id"], row["events"]) for row in rows] == [("3", 1)]


def test_a_job_whose_id_is_not_text_is_shown_and_left_alone(failing: Processes, redis_server: RedisServer) -> None:
    """Such an id comes from another program, and must not keep the other jobs from being deleted."""
    redis_server.client().zadd(f"{P}failed", {b"\xff": 1})

    assert command(failing, "list", "--limit", "1")[1].splitlines()[0].split()[0] == "\\udcff"
    assert command(failing, "list", "--json")[0] == 0
    code, output, error = command(failing, "delete", "--all")
    assert (code, output) == (1, "5 failed jobs deleted, 5 events\n")
    assert "1 job unchanged" in error


def test_failed_show_prints_the_events_and_hides_the_write_key(failing: Processes, redis: Any) -> None:
    """The command shows a job of any SDK, and the beginning of data that it cannot read."""
    redis.hset(f"{P}5", "data", "\x1b[31mgarbage")

    code, output, _ = command(failing, "show", "1")
    assert code == 0
    assert json.loads(output.splitlines()[-1])["userId"] == "u0"
    assert "WRITE_KEY" not in output
    assert "garbage" in command(failing, "show", "5")[1]
    assert "\x1b" not in command(failing, "show", "5")[1]
    assert command(failing, "show", "77")[::2] == (1, "rudderpipe: no failed job has this id\n")


def test_failed_retry_delivers_the_jobs_again_in_order(failing: Processes, redis: Any) -> None:
    """A dry run changes nothing. A real run puts the jobs into the queue again, with no attempt counted."""
    code, output, _ = command(failing, "retry", "--all", "--dry-run")
    assert (code, output) == (0, "would retry 5 failed jobs, 5 events\n")
    assert redis.zcard(f"{P}failed") == 5

    assert command(failing, "retry", "--id", "4")[:2] == (0, "1 failed job in line again, 1 event\n")
    assert command(failing, "retry", "--all")[:2] == (0, "4 failed jobs in line again, 4 events\n")
    assert redis.lrange(f"{P}wait", 0, -1) == ["5", "3", "2", "1", "4"]
    assert failing.status().events.queued == 5

    failing.start("-m", "rudderpipe.sender")
    assert failing.delivered(5)
    wait_until(lambda: failing.status().events.delivered == 5)
    assert failing.plane.stats()["duplicates"] == 0


def test_failed_retry_first_puts_the_jobs_ahead_of_waiting_jobs(failing: Processes, redis: Any) -> None:
    """The oldest of the retried jobs is the next that a sender takes."""
    command(failing, "retry", "--id", "5")

    command(failing, "retry", "--all", "--first")

    assert redis.lrange(f"{P}wait", 0, -1) == ["5", "4", "3", "2", "1"]


def test_failed_retry_can_replace_a_wrong_write_key(failing: Processes, redis: Any) -> None:
    """The key of a job is inside its data, so a corrected setting alone would not reach it."""
    failing.explicit["write_key"] = "RIGHT_KEY"
    redis.hset(f"{P}5", "data", "garbage")

    code, output, error = command(failing, "retry", "--all", "--replace-write-key")

    assert (code, output) == (1, "4 failed jobs in line again, 4 events\n")
    assert "1 job unchanged" in error
    for job_id in "1234":
        inner = json.loads(json.loads(redis.hget(f"{P}{job_id}", "data"))["eventData"])
        assert inner["request"]["auth"] == {"username": "RIGHT_KEY"}
    assert redis.zrange(f"{P}failed", 0, -1) == ["5"]
    assert "_KEY" not in output + error


def test_failed_retry_resets_the_attempts_of_the_node_sdk(failing: Processes, redis: Any) -> None:
    """Ten attempts in the data would make the Node SDK fail the job at once, without a request."""
    data = json.loads(redis.hget(f"{P}1", "data"))
    redis.hset(f"{P}1", "data", json.dumps({**data, "eventData": data["eventData"][:-2] + "10}"}))
    assert json.loads(json.loads(redis.hget(f"{P}1", "data"))["eventData"])["attempts"] == 10

    command(failing, "retry", "--id", "1")

    assert json.loads(json.loads(redis.hget(f"{P}1", "data"))["eventData"])["attempts"] == 0


def test_exported_events_can_be_deleted_and_sent_again(failing: Processes, directory: Path, redis: Any) -> None:
    """The export is NDJSON that ``rudderpipe send`` reads, with the same message ids.

    An existing file is not overwritten.
    """
    redis.hset(f"{P}5", "data", "garbage")
    path = directory / "failed.ndjson"

    code, _, errors = command(failing, "export", str(path))
    assert code == 1
    assert errors.splitlines() == [
        "wrote 4 events of 4 failed jobs",
        "1 job not written: not in the form of a RudderStack SDK's job",
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    exported = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["userId"] for event in exported] == ["u0", "u1", "u2", "u3"]
    assert command(failing, "export", str(path))[0] == 2
    nowhere = f"{path}.d/events"
    said = f"rudderpipe: {nowhere} cannot be written: no directory, or no right to write there\n"
    assert command(failing, "export", nowhere) == (2, "", said)
    assert command(failing, "export", "-", "--id", "1")[1] == path.read_text().splitlines()[0] + "\n"

    assert command(failing, "delete", "--all", "--dry-run")[1] == "would delete 5 failed jobs, 4 events\n"
    assert command(failing, "delete", "--all")[:2] == (0, "5 failed jobs deleted, 4 events\n")
    events = failing.status().events
    assert (events.failed, events.removed) == (0, 5)
    assert redis.zcard(f"{P}failed") == 0

    sent = failing.run("-m", "rudderpipe", "send", str(path), "--json")
    assert json.loads(sent.stdout)["delivered"] == 4
    assert {event["messageId"] for event in exported} == set(failing.plane.message_ids())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["retry"], "choose the failed jobs with --all, or with --id, --since or --reason"),
        (["delete", "--all", "--id", "1"], "--all cannot be combined with --id, --since or --reason"),
        (["list", "--since", "yesterday"], "rudderpipe failed list: --since: must be 90s"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_a_message(
    processes: Processes, redis_server: RedisServer, arguments: list[str], reason: str
) -> None:
    """An operator must see which option is wrong."""
    processes.explicit["redis"] = redis_server.url

    code, _, error = command(processes, *arguments)

    assert code == 2
    assert reason in error
