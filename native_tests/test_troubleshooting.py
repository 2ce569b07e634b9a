"""docs/troubleshooting.md: each symptom is provoked, and its commands print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native_tests import pages, test_upgrade
from native_tests.pages import Reader, Step, matches, section
from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.testing.data_plane import Misbehaviour

PAGE = "troubleshooting.md"
TEXTS = re.compile(r"```text\n(.*?)\n```", re.DOTALL)


@pytest.fixture(name="run_as")
def _run_as(processes: Processes, directory: Path) -> Iterator[Callable[..., Reader]]:
    """Yield what makes a reader with the settings of an application, and with the files of the page."""
    readers: list[Reader] = []
    port = str(free_port())

    def make(shell: str = "exec bash 2>&1", **settings: str) -> Reader:
        folder = directory / f"reader-{len(readers)}"
        folder.mkdir()
        processes.explicit.pop("pipe", None)
        given = {"write_key": "WRITE_KEY", "data_plane_url": processes.plane.url, **settings}
        environment = {f"RUDDERPIPE_{name.upper()}": value.replace("6379", port) for name, value in given.items()}
        run = processes.explicit["runtime_dir"]
        own = {"6379": port, "/dev/shm/rudderpipe-$(id -u)": run}
        readers.append(
            Reader(folder, {**environment, "RUDDERPIPE_RUNTIME_DIR": run, "RUDDERPIPE_SPOOL_DIR": run}, own, shell)
        )
        readers[-1].write(pages.text_of(PAGE))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def away() -> str:
    """Return the URL of a data plane that is away; each has a pipe of its own."""
    return f"http://127.0.0.1:{free_port()}"


REDIS = "redis://localhost:6379/0"


def start_redis(reader: Reader) -> None:
    """Start the reader's Redis, as the quickstart does."""
    reader.keep(Step("redis-server --port 6379 --save ''", ["…Ready to accept connections…"]))


def commands() -> set[str]:
    """Return the headings of the sections that have commands or quoted lines."""
    headings = re.findall(r"^## (.*)$", pages.text_of(PAGE), re.MULTILINE)
    return {heading for heading in headings if "```" in section(PAGE, heading)}


def test_every_symptom_is_provoked() -> None:
    """A section whose commands no test runs may be wrong."""
    source = Path(__file__).read_text()

    assert [heading for heading in commands() if f'section(PAGE, "{heading}")' not in source] == []


def test_events_that_do_not_arrive(run_as: Callable[..., Reader]) -> None:
    """The data plane is away."""
    reader = run_as(data_plane_url=away())
    reader.run("python probe.py")

    reader.follow(section(PAGE, "Events do not arrive"))


def test_calls_that_return_false(run_as: Callable[..., Reader]) -> None:
    """A value has no form in JSON."""
    reader = run_as(data_plane_url=away())
    reader.run("python probe.py")  # it makes the ring, in which refusals are counted

    reader.follow(section(PAGE, "Calls return False"))


def test_a_flush_that_is_false(run_as: Callable[..., Reader]) -> None:
    """The data plane is away."""
    run_as(data_plane_url=away()).follow(section(PAGE, "flush() is False"))


@pytest.mark.parametrize("redis", ["", REDIS], ids=["direct", "queue"])
def test_a_wrong_write_key(run_as: Callable[..., Reader], processes: Processes, redis: str) -> None:
    """The data plane refuses the key with 401. With the right one all events arrive."""
    processes.plane.misbehaviour = Misbehaviour(status=401)
    reader = run_as(write_key="WRONG_KEY", **({"redis": redis} if redis else {}))
    first, second = pages.sessions(section(PAGE, "401, and other refusals"))
    if redis:
        start_redis(reader)
        reader.run("python probe.py")
        wait_until(lambda: any("1 failed job" in line for line in reader.run("rudderpipe failed list")))
    else:
        for step in first.steps:
            reader.do(step)
    processes.plane.misbehaviour = Misbehaviour()

    if redis:
        for step in second.steps:
            reader.do(step)
        reader.run("python -m rudderpipe.sender > sender.log &")
    else:
        pipe = processes_pipe(reader)
        wait_until(lambda: not processes.own_processes())  # the old settings' flusher ends after linger_s
        reader.run("export RUDDERPIPE_WRITE_KEY=RIGHT_KEY")
        assert any(pipe in line for line in reader.run("rudderpipe failed list"))
        reader.run(f"rudderpipe failed retry --all --pipe {pipe}")
    wait_until(lambda: processes.plane.stats()["events"] == 1)


def processes_pipe(reader: Reader) -> str:
    """Return the name of the pipe that the reader's settings have."""
    return reader.run("rudderpipe status")[0].split()[1]


def test_after_an_upgrade(run_as: Callable[..., Reader], processes: Processes) -> None:
    """A ring of the earlier layout is shown and drained. A client with other settings than its flusher's warns."""
    reader = run_as()
    test_upgrade.restore(processes)
    text = section(PAGE, "After an upgrade")

    reader.follow(text)

    (warning,) = TEXTS.findall(text)
    reader.run("python probe.py")
    printed = reader.run("RUDDERPIPE_FLUSH_AT=50 python probe.py")
    assert any(matches(warning, line) for line in printed), printed


def test_a_ring_that_nothing_drains(run_as: Callable[..., Reader], processes: Processes) -> None:
    """No process may start a flusher."""
    reader = run_as()
    reader.run("RUDDERPIPE_AUTOSTART=false python probe.py")

    reader.follow(section(PAGE, "Nothing drains"))

    assert processes.plane.stats()["events"] == 1


@pytest.mark.skipif(os.getuid() != 0, reason="mounts, as root")
def test_a_full_shared_memory(run_as: Callable[..., Reader]) -> None:
    """The folder has 64 KiB."""
    mount = "mount -t tmpfs -o size=64k tmpfs /dev/shm && exec bash 2>&1"

    run_as(f"exec unshare --mount bash -c '{mount}'").follow(section(PAGE, "/dev/shm is full"))


def test_a_redis_that_is_away(run_as: Callable[..., Reader]) -> None:
    """No server listens."""
    reader = run_as(redis=REDIS)
    reader.run("python probe.py")

    reader.follow(section(PAGE, "Redis is away"))


def test_a_redis_without_memory(run_as: Callable[..., Reader]) -> None:
    """Other programs have taken all of it. The events arrive once there is room."""
    reader = run_as(redis=REDIS)
    start_redis(reader)
    assert "all well: True" in reader.run("python probe.py")
    reader.run("redis-cli -p 6379 config set maxmemory 100kb")
    reader.run("python probe.py")

    reader.follow(section(PAGE, "Redis is out of memory"))

    reader.run("redis-cli -p 6379 config set maxmemory 0")
    reader.do(
        Step("rudderpipe status", ["events    2 accepted = 0 in ring + 0 queued + 2 delivered + 0 failed: balanced"])
    )


def test_a_redis_that_evicts(run_as: Callable[..., Reader]) -> None:
    """The policy is one that deletes any key."""
    reader = run_as(redis=REDIS)
    start_redis(reader)
    reader.run("redis-cli -p 6379 config set maxmemory-policy allkeys-lru")

    reader.follow(section(PAGE, "Redis evicts events"))

    assert not any("evicts" in line for line in reader.run("rudderpipe status"))


def test_a_flusher_that_does_not_start(run_as: Callable[..., Reader]) -> None:
    """The interpreter of the running application is gone; a setting is wrong."""
    reader = run_as()
    text = section(PAGE, "The flusher or the sender does not start")
    (warning,) = TEXTS.findall(text)
    probe = (reader.directory / "probe.py").read_text()
    (reader.directory / "gone.py").write_text(f"import sys\n\nsys.executable = '/srv/app/.venv/bin/python'\n{probe}")
    printed = reader.run("python gone.py")

    assert any(matches(warning, line) for line in printed), printed
    reader.follow(text)


def test_events_that_arrive_twice(run_as: Callable[..., Reader], processes: Processes) -> None:
    """The sender is killed while a request is under way."""
    processes.plane.misbehaviour = Misbehaviour(delay_ms=2_000)
    reader = run_as(redis=REDIS)
    start_redis(reader)
    probe = subprocess.list2cmdline(["python", "probe.py"])
    reader.run(f"{probe} > /dev/null &")
    wait_until(lambda: any("1 active" in line for line in reader.run("rudderpipe status")))
    (sender,) = [each for each in processes.own_processes() if "rudderpipe.sender" in " ".join(each.cmdline())]
    sender.kill()
    processes.plane.misbehaviour = Misbehaviour()

    reader.follow(section(PAGE, "Events arrive twice, or out of order"))

    wait_until(lambda: processes.plane.stats()["duplicates"] == 1)
