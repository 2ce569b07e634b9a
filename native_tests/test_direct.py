"""Direct mode: the flusher delivers by itself, with the sender's rules, and keeps what fails in its spool."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_tests.faulty_plane import FaultyPlane, Request, Step, answer, depends, raw
from native_tests.test_failed import command
from native_tests.world import World, wait_until
from rudderpipe.flusher import dead_letters as spool


@pytest.fixture(name="faulty")
def _faulty(world: World) -> Iterator[FaultyPlane]:
    with FaultyPlane() as plane:
        world.explicit |= {"data_plane_url": plane.url, "flush_at": 8, "max_jobs_per_request": 50, "linger_s": 30}
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


def dead_letters(world: World) -> list[Path]:
    """The files, oldest first."""
    letters = spool.of(world.settings)
    return [letters.path / name for name in letters.names()]


def kept(world: World) -> list[list[str]]:
    """The users of each record."""
    records = [json.loads(path.read_bytes()) for path in dead_letters(world)]
    return [[event["userId"] for event in record["events"]] for record in records]


def send(world: World, names: str) -> None:
    """An event of each, all delivered or failed in the end; the account balances."""
    client = world.client()
    for name in names:
        assert client.track(name, "e")
    client.flush(0)
    wait_until(lambda: world.status().events.delivered + world.status().events.failed == world.status().events.accepted)
    assert world.status().events.balanced


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize("guilty", ["d", "ah", "cd", "abcdefghijklmnop"])
def test_the_guilty_events_are_kept_and_the_others_arrive_in_order(
    world: World, faulty: FaultyPlane, guilty: str, status: int
) -> None:
    """Of two batches that shared a request; each of them with the reason."""
    faulty.then(refusing(guilty, status))
    send(world, "abcdefghijklmnop")

    assert accepted_users(faulty, guilty) == [name for name in "abcdefghijklmnop" if name not in guilty]
    assert kept(world) == [[name] for name in guilty]
    assert world.status().events.failed == len(guilty)
    code, said, _ = command(world, "list")
    assert code == 0
    assert said.count(f"status {status}: bad (after 1 attempt)") == len(guilty)
    for path in dead_letters(world):
        assert path.stat().st_mode & 0o777 == 0o600
        assert "WRITE_KEY" not in path.read_text()
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_fails_is_listed_shown_exported_and_retried(world: World, faulty: FaultyPlane, directory: Path) -> None:
    """As with a queue; a retry keeps the message ids and empties the spool, and the account balances all the while."""
    faulty.then(refusing("abcd", 401))
    send(world, "abcd")
    assert kept(world) == [["a", "b", "c", "d"]]
    wanted = faulty.requests[0].ids
    code, said, _ = command(world, "list", "--json")
    (job_id,) = [json.loads(line)["id"] for line in said.splitlines()]
    assert "bad" in command(world, "show", job_id)[1]
    assert command(world, "export", str(directory / "out.ndjson"), "--all")[0] == 0
    assert [json.loads(line)["messageId"] for line in (directory / "out.ndjson").read_text().splitlines()] == wanted

    faulty.then(answer())
    code, _, said = command(world, "retry", "--id", job_id)
    assert code == 0, said
    world.client().flush(0)

    faulty.wait_for(lambda: faulty.accepted == wanted)
    assert kept(world) == []
    wait_until(lambda: world.status().events.balanced)
    assert command(world, "list")[1].splitlines()[-1] == "0 failed jobs, 0 events"


def test_what_fails_can_be_deleted(world: World, faulty: FaultyPlane) -> None:
    """By a part of the reason; what has another stays."""
    faulty.then(answer(401, b"key"), answer(404, b"path"))
    send(world, "a")
    send(world, "b")
    assert kept(world) == [["a"], ["b"]]

    assert command(world, "delete", "--reason", "key")[0] == 0

    assert kept(world) == [["b"]]


def test_a_retry_waits_as_the_server_asks_and_nothing_overtakes_it(world: World, faulty: FaultyPlane) -> None:
    """The events stay in the ring until they are delivered."""
    faulty.then(answer(503, b"down", retry_after="1"), raw(b""), answer())
    send(world, "abcdefghij")

    assert accepted_users(faulty, "")[-10:] == list("abcdefghij")
    assert faulty.accepted == [event_id for request in faulty.requests[-2:] for event_id in request.ids][-10:]


@pytest.mark.parametrize("said", [answer(), answer(400, b"bad"), answer(503, b"down", retry_after="0")])
def test_a_flusher_that_is_killed_in_a_request_loses_nothing(world: World, faulty: FaultyPlane, said: Step) -> None:
    """The next one repeats what was not answered, and nothing else."""
    faulty.then(answer(), said, answer())
    send(world, "ab")
    faulty.hold()
    client = world.client()
    for name in "cd":
        assert client.track(name, "e")
    client.flush(0)
    faulty.wait_for(lambda: len(faulty.requests) == 2)
    flusher = world.flusher()
    flusher.kill()
    flusher.wait(30)
    faulty.let_go()

    wait_until(lambda: client.track("e", "e") and client.flush(1))
    wait_until(lambda: world.status().events.in_ring == 0)

    came = [user for request in faulty.requests for user in users(request)]
    assert came[:4] == list("abcd")
    assert came.count("a") == came.count("b") == 1
    assert {*"abcde"} == {*came}
    assert world.status().events.balanced


def test_a_stop_does_not_wait_for_a_backoff(world: World, faulty: FaultyPlane) -> None:
    """The events stay in the ring for the next flusher."""
    faulty.then(answer(503, b"down", retry_after="300"), answer())
    world.explicit |= {"autostart": False}
    flusher = world.start("-m", "rudderpipe.flusher")
    client = world.client()
    assert client.track("a", "e")
    client.flush(0)
    faulty.wait_for(lambda: faulty.requests)
    flusher.terminate()
    assert flusher.wait(30) == 0

    world.start("-m", "rudderpipe.flusher")
    faulty.wait_for(lambda: len(faulty.accepted) == 1)


def test_a_stop_is_bounded(world: World, faulty: FaultyPlane) -> None:
    """A data plane that does not answer holds it for ``shutdown_timeout_s``."""
    world.explicit |= {"autostart": False, "shutdown_timeout_s": 0.5, "timeout_s": 600}
    faulty.hold()
    flusher = world.start("-m", "rudderpipe.flusher")
    client = world.client()
    assert client.track("a", "e")
    client.flush(0)
    faulty.wait_for(lambda: faulty.requests)

    flusher.terminate()

    assert flusher.wait(30) == 0
    assert world.status().events.in_ring == 1


def test_a_spool_that_is_full_loses_events_and_says_so(world: World, faulty: FaultyPlane) -> None:
    """Nothing waits for it; they count as failed."""
    world.explicit |= {"max_spool_bytes": 0}
    faulty.then(answer(401, b"key"))
    send(world, "ab")

    assert kept(world) == []
    assert world.status().events.failed == 2
    assert (
        "failed events cannot be kept as dead letters and are lost error=no room, max_spool_bytes is 0" in world.log()
    )


def test_what_failed_for_a_wrong_write_key_is_sent_with_the_right_one(world: World, faulty: FaultyPlane) -> None:
    """The pipe's derived name holds the key: the old pipe is named, and can be retried with the settings of now."""
    del world.explicit["pipe"]
    world.explicit["linger_s"] = 0.2
    faulty.then(answer(401, b"key"))
    with world.client() as client:
        assert all(client.track(name, "e") for name in "ab")
    wait_until(lambda: not world.own_processes())
    wrong = world.settings.pipe_name
    world.explicit["write_key"] = "RIGHT_KEY"
    faulty.then(answer())

    code, said, hint = command(world, "list")
    assert (code, said) == (0, "0 failed jobs, 0 events\n")
    assert hint == f"1 more in pipe {wrong}; to list them: rudderpipe failed list --pipe {wrong}\n"
    assert command(world, "retry", "--all", "--pipe", wrong)[0] == 0

    faulty.wait_for(lambda: faulty.accepted)
    assert users(faulty.requests[-1]) == ["a", "b"]
    assert b64decode(faulty.requests[-1].headers["authorization"].split()[1]) == b"RIGHT_KEY:"


@pytest.mark.parametrize("end", ["", "/", "/v1/batch", "/v1/batch/"])
def test_a_url_that_ends_in_the_path_holds_it_already(world: World, faulty: FaultyPlane, end: str) -> None:
    """RudderStack's documentation gives the URL both ways."""
    world.explicit["data_plane_url"] = faulty.url.replace("http", "HTTP") + end
    send(world, "a")

    assert [request.line for request in faulty.requests] == ["POST /v1/batch HTTP/1.1"]
    assert world.status().events.delivered == 1
