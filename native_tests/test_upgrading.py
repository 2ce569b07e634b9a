"""docs/upgrading.md: each change is made as the page says, and its commands print what the page shows."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from native_tests import pages
from native_tests.pages import Reader, section
from native_tests.processes import Processes, wait_until
from native_tests.test_troubleshooting import REDIS, _run_as, start_redis
from rudderpipe.testing.data_plane import DataPlaneServer

PAGE = "upgrading.md"
RunAs = Callable[..., Reader]
APPLICATION = "python -c 'import probe, time; time.sleep(600)' > /dev/null 2>&1 &"
"""A process that has sent an event and goes on."""
__all__ = ["_run_as"]  # a fixture


@pytest.fixture(name="other")
def _other() -> Iterator[DataPlaneServer]:
    """Yield another data plane."""
    with DataPlaneServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_change_is_tried() -> None:
    """A section whose commands no test runs may be wrong."""
    headings = re.findall(r"^## (.*)$", pages.text_of(PAGE), re.MULTILINE)
    source = Path(__file__).read_text()

    assert [
        name for name in headings if "```" in section(PAGE, name) and f'section(PAGE, "{name}")' not in source
    ] == []


def test_after_a_new_version_every_ring_has_a_flusher(run_as: RunAs) -> None:
    """The first event of a process starts it."""
    reader = run_as()
    reader.run(APPLICATION)

    reader.follow(section(PAGE, "A new version"))


def test_going_back_empties_the_ring_before(run_as: RunAs, processes: Processes) -> None:
    """Application and flusher have ended, and an event is left."""
    reader = run_as()
    reader.run("RUDDERPIPE_AUTOSTART=false python probe.py")

    reader.follow(section(PAGE, "Going back"))

    assert processes.plane.stats()["events"] == 1


def test_a_ring_with_other_settings(run_as: RunAs, processes: Processes) -> None:
    """A larger number of events holds at once, and a larger memory for the next ring."""
    reader = run_as()
    larger, new = pages.sessions(section(PAGE, "Change the settings of the ring"))
    reader.run(APPLICATION)
    for step in larger.steps:
        reader.do(step)
    reader.run("kill %1")
    wait_until(lambda: not processes.own_processes())
    for step in new.steps:
        reader.do(step)


def test_a_write_key_is_rotated(run_as: RunAs, processes: Processes) -> None:
    """The events of the old key arrive, and its ring ends, while the application uses the new one."""
    reader = run_as(write_key="OLD_KEY")
    reader.run("python probe.py")
    reader.run("RUDDERPIPE_WRITE_KEY=NEW_KEY python probe.py")

    reader.follow(section(PAGE, "Rotate a write key"))

    assert processes.plane.stats()["events"] == 2


def test_a_queue_moves_to_another_data_plane(run_as: RunAs, processes: Processes, other: DataPlaneServer) -> None:
    """A job for the old data plane waits, and then goes to the new one with those that came after it."""
    reader = run_as(redis=REDIS, data_plane_url=other.url)
    own = {"http://127.0.0.1:8080": processes.plane.url, "http://127.0.0.1:8081": other.url}
    reader.replace(own)
    start_redis(reader)
    reader.run(f"RUDDERPIPE_AUTOSTART=flusher RUDDERPIPE_DATA_PLANE_URL={processes.plane.url} python probe.py")

    reader.follow(section(PAGE, "Move to another data plane"))

    reader.run("python probe.py")
    wait_until(lambda: other.stats()["events"] == 2)
    assert processes.plane.stats()["events"] == 0


def test_a_move_to_another_redis(run_as: RunAs, processes: Processes) -> None:
    """The old queue is emptied, while the application fills the new one."""
    reader = run_as(redis=REDIS)
    start_redis(reader)
    reader.run("python probe.py")
    reader.run("RUDDERPIPE_REDIS=redis://localhost:6379/1 python probe.py")

    reader.follow(section(PAGE, "Move to another Redis"))

    wait_until(lambda: processes.plane.stats()["events"] == 2)
