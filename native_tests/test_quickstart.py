"""The pages for the first hour, followed word for word: docs/quickstart.md and README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_tests import pages
from native_tests.pages import Reader
from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.testing.redis_server import RedisServer


@pytest.fixture(name="reader")
def _reader(processes: Processes, directory: Path) -> Iterator[Reader]:
    """Yield a reader with an empty folder and free ports, whose processes keep their files in this test's directory."""
    folder = directory / "reader"
    folder.mkdir()
    own = {port: str(free_port()) for port in ("8080", "8000", "6379")}
    reader = Reader(
        folder,
        dict.fromkeys(("RUDDERPIPE_RUNTIME_DIR", "RUDDERPIPE_SPOOL_DIR"), processes.explicit["runtime_dir"]),
        own,
    )
    yield reader
    reader.close()


def test_the_quickstart_runs_word_for_word(reader: Reader) -> None:
    """A reader copies the page from top to bottom, with one data plane and one Redis for all of it."""
    reader.follow(pages.text_of("quickstart.md"))


@pytest.mark.parametrize("is_away", [False, True], ids=["redis", "no-redis"])
def test_the_ten_lines_of_the_readme_work(
    processes: Processes, redis_server: RedisServer, directory: Path, *, is_away: bool
) -> None:
    """The calls accept both events and nothing is raised, also while Redis is away. The events arrive in both cases."""
    (code,) = re.findall(r"```python\n(.*?)```", pages.text_of("README.md"), re.DOTALL)
    code = code.replace("https://dataplane.example.com", processes.plane.url)
    code = code.replace("redis://localhost:6379/0", f"unix://{redis_server.socket}")
    (directory / "ten_lines.py").write_text(f"{code}\nprint(client.counts())\n")
    for name in ("pipe", "data_plane_url", "write_key"):  # the example gives these settings
        processes.explicit.pop(name, None)
    if is_away:
        redis_server.kill()

    done = processes.run(str(directory / "ten_lines.py"))

    assert (done.stdout, done.stderr, done.returncode) == (b"{'accepted': 2}\n", b"", 0)
    if is_away:
        redis_server.start()
    wait_until(lambda: processes.plane.stats()["events"] == 2)
