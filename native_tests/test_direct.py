"""Direct mode: the flusher delivers by itself with the sender's rules, and keeps failed batches as dead letters."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_tests.faulty_plane import FaultyPlane, Request, Step, answer, depends, raw
from native_tests.processes import Processes, wait_until
from native_tests.test_failed import command
from rudderpipe.flusher import dead_letters


@pytest.fixture(name="faulty")
def _faulty(processes: Processes) -> Iterator[FaultyPlane]:
    with FaultyPlane() as plane:
        processes.explicit |= {"data_plane_url": plane.url, "flush_at": 8, "max_jobs_per_request": 50, "linger_s": 30}
        yield plane


def users(request: Request) -> list[str]:
    """Return the users of a request's events."""
    return [event["userId"] for event in request.events]


def refusing(guilty: str, status: int = 400) -> Step:
    """Return a step that refuses every request with one of these users."""
    return depends(lambda request: answer(status, b"bad") if set(guilty) & set(users(request)) else answer())


def accepted_users(plane: FaultyPlane, guilty: str) -> list[str]:
    """Return the users of the requests that were not refused, in order."""
    return [user for request in plane.requests if not set(guilty) & set(users(request)) for user in users(request)]


def letter_files(processes: Processes) -> list[Path]:
    """Return the files, oldest first."""
    directory = dead_letters.of(processes.settings)
    return [directory.path / name for name in directory.names()]


def kept(processes: Processes) -> list[list[str]]:
    """Return the users of each dead letter."""
    records = [json.loads(path.read_bytes()) for path in letter_files(processes)]
    return [[event["userId"] for event in record["events"]] for record in records]


def send(processes: Processes, names: str) -> None:
    """Track an event of each user, wait until all are delivered or failed, and check the account."""
    client = processes.client()
    for name in names:
        assert client.track(name, "e")
    client.flush(0)
    wait_until(
        lambda: (
            processes.status().events.delivered + processes.status().events.failed == processes.status().events.accepted
        )
    )
    assert processes.status().events.balanced


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize("guilty", ["d", "ah", "cd", "abcdefghijklmnop"])
def test_only_guilty_events_become_dead_letters(
    processes: Processes, faulty: FaultyPlane, guilty: str, status: int
) -> None:
    """Two batches shared a refused request.

    The other events arrive in order, and each guilty one is kept with the reason.
    """
    faulty.then(refusing(guilty, status))
    send(processes, "abcdefghijklmnop")

    assert accepted_users(faulty, guilty) == [name for name in "abcdefghijklmnop" if name not in guilty]
    assert kept(processes) == [[name] for name in guilty]
    assert processes.status().events.failed == len(guilty)
    code, listed, _ = command(processes, "list")
    assert code == 0
    assert listed.count(f"status {status}: bad (after 1 attempt)") == len(guilty)
    for path in letter_files(processes):
        assert path.stat().st_mode & 0o777 == 0o600
        assert "WRITE_KEY" not in path.read_text()
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_dead_letters_can_be_listed_shown_exported_and_retried(
    processes: Processes, faulty: FaultyPlane, directory: Path
) -> None:
    """The commands are those for a queue.

    A retry keeps the message ids and removes the dead letters, and the account stays balanced.
    """
    faulty.then(refusing("abcd", 401))
    send(processes, "abcd")
    assert kept(processes) == [["a", "b", "c", "d"]]
    wanted = faulty.requests[0].ids
    code, listed, _ = command(processes, "list", "--json")
    (job_id,) = [json.loads(line)["id"] for line in listed.splitlines()]
    assert "bad" in command(processes, "show", job_id)[1]
    assert command(processes, "export", str(directory / "out.ndjson"), "--all")[0] == 0
    assert [json.loads(line)["messageId"] for line in (directory / "out.ndjson").read_text().splitlines()] == wanted

    faulty.then(answer())
    code, _, printed = command(processes, "retry", "--id", job_id)
    assert code == 0, printed
    processes.client().flush(0)

    faulty.wait_for(lambda: faulty.accepted == wanted)
    assert kept(processes) == []
    wait_until(lambda: processes.status().events.balanced)
    assert command(processes, "list")[1].splitlines()[-1] == "0 failed jobs, 0 events"


def test_dead_letters_can_be_deleted_by_reason(processes: Processes, faulty: FaultyPlane) -> None:
    """A part of the reason selects the failed batches, and other batches stay."""
    faulty.then(answer(401, b"key"), answer(404, b"path"))
    send(processes, "a")
    send(processes, "b")
    assert kept(processes) == [["a"], ["b"]]

    assert command(processes, "delete", "--reason", "key")[0] == 0

    assert kept(processes) == [["b"]]


def test_no_event_overtakes_a_batch_that_waits_for_a_retry(processes: Processes, faulty: FaultyPlane) -> None:
    """The data plane sets the wait by Retry-After. The events stay in the ring until they are delivered."""
    faulty.then(answer(503, b"down", retry_after="1"), raw(b""), answer())
    send(processes, "abcdefghij")

    assert accepted_users(faulty, "")[-10:] == list("abcdefghij")
    assert faulty.accepted == [event_id for request in faulty.requests[-2:] for event_id in request.ids][-10:]


@pytest.mark.parametrize("response", [answer(), answer(400, b"bad"), answer(503, b"down", retry_after="0")])
def test_a_flusher_killed_in_a_request_loses_nothing(processes: Processes, faulty: FaultyPlane, response: Step) -> None:
    """The next flusher repeats only the request without a response."""
    faulty.then(answer(), response, answer())
    send(processes, "ab")
    faulty.hold()
    client = processes.client()
    for name in "cd":
        assert client.track(name, "e")
    client.flush(0)
    faulty.wait_for(lambda: len(faulty.requests) == 2)
    flusher = processes.flusher()
    flusher.kill()
    flusher.wait(30)
    faulty.let_go()

    wait_until(lambda: client.track("e", "e") and client.flush(1))
    wait_until(lambda: processes.status().events.in_ring == 0)

    came = [user for request in faulty.requests for user in users(request)]
    assert came[:4] == list("abcd")
    assert came.count("a") == came.count("b") == 1
    assert {*"abcde"} == {*came}
    assert processes.status().events.balanced


def test_a_flushers_stop_does_not_wait_for_a_backoff(processes: Processes, faulty: FaultyPlane) -> None:
    """The events stay in the ring for the next flusher."""
    faulty.then(answer(503, b"down", retry_after="300"), answer())
    processes.explicit |= {"autostart": False}
    flusher = processes.start("-m", "rudderpipe.flusher")
    client = processes.client()
    assert client.track("a", "e")
    client.flush(0)
    faulty.wait_for(lambda: faulty.requests)
    flusher.terminate()
    assert flusher.wait(30) == 0

    processes.start("-m", "rudderpipe.flusher")
    faulty.wait_for(lambda: len(faulty.accepted) == 1)


def test_shutdown_timeout_s_bounds_a_flushers_stop(processes: Processes, faulty: FaultyPlane) -> None:
    """The data plane does not respond, and the event stays in the ring."""
    processes.explicit |= {"autostart": False, "shutdown_timeout_s": 0.5, "timeout_s": 600}
    faulty.hold()
    flusher = processes.start("-m", "rudderpipe.flusher")
    client = processes.client()
    assert client.track("a", "e")
    client.flush(0)
    faulty.wait_for(lambda: faulty.requests)

    flusher.terminate()

    assert flusher.wait(30) == 0
    assert processes.status().events.in_ring == 1


def test_dead_letters_without_room_are_lost_and_logged(processes: Processes, faulty: FaultyPlane) -> None:
    """A failed batch without room must not stop the flusher. Its events count as failed."""
    processes.explicit |= {"max_spool_bytes": 0}
    faulty.then(answer(401, b"key"))
    send(processes, "ab")

    assert kept(processes) == []
    assert processes.status().events.failed == 2
    assert (
        "failed events cannot be kept as dead letters and are lost error=no room, max_spool_bytes is 0"
        in processes.log()
    )


def test_dead_letters_of_a_wrong_write_key_can_be_retried_with_the_right_one(
    processes: Processes, faulty: FaultyPlane
) -> None:
    """The derived name of a pipe contains the write key.

    The list names the old pipe, whose dead letters can be retried with the new settings.
    """
    del processes.explicit["pipe"]
    processes.explicit["linger_s"] = 0.2
    faulty.then(answer(401, b"key"))
    with processes.client() as client:
        assert all(client.track(name, "e") for name in "ab")
    wait_until(lambda: not processes.own_processes())
    wrong = processes.settings.pipe_name
    processes.explicit["write_key"] = "RIGHT_KEY"
    faulty.then(answer())

    code, listed, hint = command(processes, "list")
    assert (code, listed) == (0, "0 failed jobs, 0 events\n")
    assert hint == f"1 more in pipe {wrong}; to list them: rudderpipe failed list --pipe {wrong}\n"
    assert command(processes, "retry", "--all", "--pipe", wrong)[0] == 0

    faulty.wait_for(lambda: faulty.accepted)
    assert users(faulty.requests[-1]) == ["a", "b"]
    assert b64decode(faulty.requests[-1].headers["authorization"].split()[1]) == b"RIGHT_KEY:"


def test_an_outage_longer_than_all_attempts_loses_nothing(processes: Processes, faulty: FaultyPlane) -> None:
    """What failed is a dead letter on a disk, and is delivered by itself when a fresh event shows that the data plane
    is back, whichever flusher runs then."""
    processes.explicit |= {"max_attempts": 1}
    faulty.then(answer(503, b"down"))
    send(processes, "abcdefghijklmnop")
    (first, second) = kept(processes)
    assert [*first, *second] == list("abcdefghijklmnop")
    assert dead_letters.of(processes.settings).path.is_relative_to(os.environ["XDG_STATE_HOME"])
    assert command(processes, "list")[1].count("sent again when the data plane is back") == 2
    assert processes.status().dead_letters.waiting == 2
    flusher = processes.flusher()
    flusher.kill()
    flusher.wait(30)
    faulty.then(answer())

    client = processes.client()
    assert client.track("x", "e")
    client.flush(0)

    wait_until(lambda: kept(processes) == [])
    wait_until(lambda: processes.status().events.delivered == 17)
    assert (processes.status().events.failed, processes.status().events.balanced) == (0, True)
    assert len(faulty.accepted) == len(set(faulty.accepted)) == 17


@pytest.mark.parametrize("end", ["", "/", "/v1/batch", "/v1/batch/"])
def test_a_url_with_or_without_the_path_is_accepted(processes: Processes, faulty: FaultyPlane, end: str) -> None:
    """RudderStack's documentation gives the URL both ways."""
    processes.explicit["data_plane_url"] = faulty.url.replace("http", "HTTP") + end
    send(processes, "a")

    assert [request.line for request in faulty.requests] == ["POST /v1/batch HTTP/1.1"]
    assert processes.status().events.delivered == 1
