"""Direct mode: the flusher delivers by itself, with the sender's rules, and keeps what fails in its spool."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_tests.faulty_plane import FaultyPlane, Request, Step, answer, depends, raw
from native_tests.processes import Processes, wait_until
from native_tests.test_failed import command
from rudderpipe.flusher import dead_letters as spool


@pytest.fixture(name="faulty")
def _faulty(processes: Processes) -> Iterator[FaultyPlane]:
    with FaultyPlane() as plane:
        processes.explicit |= {"data_plane_url": plane.url, "flush_at": 8, "max_jobs_per_request": 50, "linger_s": 30}
        yield plane


def users(request: Request) -> list[str]:
    """Of a request's events."""
    return [event["userId"] for event in request.events]


def refusing(guilty: str, status: int = 400) -> Step:
    """Refuses every request that holds one of these users."""
    return depends(lambda request: answer(status, b"bad") if set(guilty) & set(users(request)) else answer())


def accepted_users(plane: FaultyPlane, guilty: str) -> list[str]:
    """Those of the requests that were not refused, in order."""
    return [user for request in plane.requests if not set(guilty) & set(users(request)) for user in users(request)]


def dead_letters(processes: Processes) -> list[Path]:
    """The files, oldest first."""
    letters = spool.of(processes.settings)
    return [letters.path / name for name in letters.names()]


def kept(processes: Processes) -> list[list[str]]:
    """The users of each record."""
    records = [json.loads(path.read_bytes()) for path in dead_letters(processes)]
    return [[event["userId"] for event in record["events"]] for record in records]


def send(processes: Processes, names: str) -> None:
    """An event of each, all delivered or failed in the end; the account balances."""
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
def test_the_guilty_events_are_kept_and_the_others_arrive_in_order(
    processes: Processes, faulty: FaultyPlane, guilty: str, status: int
) -> None:
    """Of two batches that shared a request; each of them with the reason."""
    faulty.then(refusing(guilty, status))
    send(processes, "abcdefghijklmnop")

    assert accepted_users(faulty, guilty) == [name for name in "abcdefghijklmnop" if name not in guilty]
    assert kept(processes) == [[name] for name in guilty]
    assert processes.status().events.failed == len(guilty)
    code, said, _ = command(processes, "list")
    assert code == 0
    assert said.count(f"status {status}: bad (after 1 attempt)") == len(guilty)
    for path in dead_letters(processes):
        assert path.stat().st_mode & 0o777 == 0o600
        assert "WRITE_KEY" not in path.read_text()
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_fails_is_listed_shown_exported_and_retried(
    processes: Processes, faulty: FaultyPlane, directory: Path
) -> None:
    """As with a queue; a retry keeps the message ids and empties the spool, and the account balances all the while."""
    faulty.then(refusing("abcd", 401))
    send(processes, "abcd")
    assert kept(processes) == [["a", "b", "c", "d"]]
    wanted = faulty.requests[0].ids
    code, said, _ = command(processes, "list", "--json")
    (job_id,) = [json.loads(line)["id"] for line in said.splitlines()]
    assert "bad" in command(processes, "show", job_id)[1]
    assert command(processes, "export", str(directory / "out.ndjson"), "--all")[0] == 0
    assert [json.loads(line)["messageId"] for line in (directory / "out.ndjson").read_text().splitlines()] == wanted

    faulty.then(answer())
    code, _, said = command(processes, "retry", "--id", job_id)
    assert code == 0, said
    processes.client().flush(0)

    faulty.wait_for(lambda: faulty.accepted == wanted)
    assert kept(processes) == []
    wait_until(lambda: processes.status().events.balanced)
    assert command(processes, "list")[1].splitlines()[-1] == "0 failed jobs, 0 events"


def test_what_fails_can_be_deleted(processes: Processes, faulty: FaultyPlane) -> None:
    """By a part of the reason; what has another stays."""
    faulty.then(answer(401, b"key"), answer(404, b"path"))
    send(processes, "a")
    send(processes, "b")
    assert kept(processes) == [["a"], ["b"]]

    assert command(processes, "delete", "--reason", "key")[0] == 0

    assert kept(processes) == [["b"]]


def test_a_retry_waits_as_the_server_asks_and_nothing_overtakes_it(processes: Processes, faulty: FaultyPlane) -> None:
    """The events stay in the ring until they are delivered."""
    faulty.then(answer(503, b"down", retry_after="1"), raw(b""), answer())
    send(processes, "abcdefghij")

    assert accepted_users(faulty, "")[-10:] == list("abcdefghij")
    assert faulty.accepted == [event_id for request in faulty.requests[-2:] for event_id in request.ids][-10:]


@pytest.mark.parametrize("said", [answer(), answer(400, b"bad"), answer(503, b"down", retry_after="0")])
def test_a_flusher_that_is_killed_in_a_request_loses_nothing(
    processes: Processes, faulty: FaultyPlane, said: Step
) -> None:
    """The next one repeats what was not answered, and nothing else."""
    faulty.then(answer(), said, answer())
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


def test_a_stop_does_not_wait_for_a_backoff(processes: Processes, faulty: FaultyPlane) -> None:
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


def test_a_stop_is_bounded(processes: Processes, faulty: FaultyPlane) -> None:
    """A data plane that does not answer holds it for ``shutdown_timeout_s``."""
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


def test_a_spool_that_is_full_loses_events_and_says_so(processes: Processes, faulty: FaultyPlane) -> None:
    """Nothing waits for it; they count as failed."""
    processes.explicit |= {"max_spool_bytes": 0}
    faulty.then(answer(401, b"key"))
    send(processes, "ab")

    assert kept(processes) == []
    assert processes.status().events.failed == 2
    assert (
        "failed events cannot be kept as dead letters and are lost error=no room, max_spool_bytes is 0"
        in processes.log()
    )


def test_what_failed_for_a_wrong_write_key_is_sent_with_the_right_one(
    processes: Processes, faulty: FaultyPlane
) -> None:
    """The pipe's derived name holds the key: the old pipe is named, and can be retried with the settings of now."""
    del processes.explicit["pipe"]
    processes.explicit["linger_s"] = 0.2
    faulty.then(answer(401, b"key"))
    with processes.client() as client:
        assert all(client.track(name, "e") for name in "ab")
    wait_until(lambda: not processes.own_processes())
    wrong = processes.settings.pipe_name
    processes.explicit["write_key"] = "RIGHT_KEY"
    faulty.then(answer())

    code, said, hint = command(processes, "list")
    assert (code, said) == (0, "0 failed jobs, 0 events\n")
    assert hint == f"1 more in pipe {wrong}; to list them: rudderpipe failed list --pipe {wrong}\n"
    assert command(processes, "retry", "--all", "--pipe", wrong)[0] == 0

    faulty.wait_for(lambda: faulty.accepted)
    assert users(faulty.requests[-1]) == ["a", "b"]
    assert b64decode(faulty.requests[-1].headers["authorization"].split()[1]) == b"RIGHT_KEY:"


@pytest.mark.parametrize("end", ["", "/", "/v1/batch", "/v1/batch/"])
def test_a_url_that_ends_in_the_path_holds_it_already(processes: Processes, faulty: FaultyPlane, end: str) -> None:
    """RudderStack's documentation gives the URL both ways."""
    processes.explicit["data_plane_url"] = faulty.url.replace("http", "HTTP") + end
    send(processes, "a")

    assert [request.line for request in faulty.requests] == ["POST /v1/batch HTTP/1.1"]
    assert processes.status().events.delivered == 1
