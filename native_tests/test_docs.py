"""The examples of the documentation, which run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from native_tests.pages import DOCS, REPOSITORY
from native_tests.processes import Processes, wait_until
from rudderpipe.testing.redis_server import RedisServer


def examples(page: str, processes: Processes, redis: RedisServer, block: int | None = None) -> str:
    """Return a page's Python, or one block of it, with this test's data plane and Redis in it."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    code = "\n".join(blocks) if block is None else blocks[block]
    code = code.replace("https://dataplane.example.com", processes.plane.url)
    code = code.replace("redis://localhost:6379/0", f"unix://{redis.socket}")
    return re.sub(r'"host": "localhost", "port": 6379, "db": 0', f'"unix_socket_path": "{redis.socket}"', code)


def run(processes: Processes, *arguments: str) -> str:
    """Run a program of a page and return its output; it must exit with 0 and print no error."""
    for name in ("pipe", "data_plane_url", "write_key"):  # the example gives these settings
        processes.explicit.pop(name, None)
    done = processes.run(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout.decode()


def arrived(processes: Processes) -> list[dict[str, object]]:
    """Return the events that the data plane got."""
    return [event for body in processes.plane.last_events() for event in json.loads(body)["batch"]]


def test_the_examples_of_the_client_page_run(processes: Processes, redis_server: RedisServer) -> None:
    """They make calls of all six kinds, two with callbacks, and one call through each of the other clients."""
    printed = run(processes, "-c", examples("client.md", processes, redis_server))

    assert printed.count("kept Item Viewed") == 2
    assert "1000 {}" in printed
    assert "1010 0 0 0" in printed
    wait_until(lambda: len(arrived(processes)) >= 1012)
    events = arrived(processes)
    assert {"where": "<object object at 0x" in json.dumps(events)} == {"where": True}
    names = [event.get("event") for event in events]
    assert names.count("Item Viewed") == 5
    assert "Invoked" in names
    assert any(event["messageId"] == "order-17" for event in events)


def test_the_example_of_the_node_page_runs(processes: Processes, redis_server: RedisServer) -> None:
    """Each call arrives, and each callback is called."""
    printed = run(processes, "-c", examples("node.md", processes, redis_server))

    assert sorted(printed.splitlines()) == ["event: kept", "flushed all", "queue: ready"]
    wait_until(lambda: len(arrived(processes)) == 7)
    assert [event["type"] for event in arrived(processes)] == [
        "identify",
        "track",
        "page",
        "screen",
        "group",
        "alias",
        "track",
    ]


def test_the_examples_of_the_migration_page_run(processes: Processes, redis_server: RedisServer) -> None:
    """The first block uses the drop-in and the second one the native client."""
    for block in range(2):
        assert run(processes, "-c", examples("migrating.md", processes, redis_server, block)) == ""
        wait_until(lambda: not processes.own_processes())  # the drop-in's settings differ, and its flusher uses them

    wait_until(lambda: len(arrived(processes)) == 3)
    assert [event["type"] for event in arrived(processes)] == ["identify", "track", "track"]


def test_the_example_of_the_testing_page_runs(processes: Processes, redis_server: RedisServer, directory: Path) -> None:
    """An application's test file runs in a pytest of its own, which loads the plugin automatically.

    A changed copy must fail.
    """
    code = examples("testing.md", processes, redis_server)
    (directory / "test_shop.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, check=False, timeout=60)
    assert "3 passed" in done.stdout, done.stdout
    assert processes.plane.stats()["requests"] == 0

    (directory / "test_shop.py").write_text(code.replace('properties={"price": 19.95})', 'properties={"price": 2})', 1))
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, check=False, timeout=60)
    assert "1 failed, 2 passed" in done.stdout
    assert "tracked, but with properties.price=19.95 instead of 2" in done.stdout


WITH_LINKS = [
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/*.md", "docs/reference/*.md", ".github/*.md")
    for path in sorted(REPOSITORY.glob(pattern))
]
HERE = re.compile(r"https://github\.com/OWNER/rudderpipe/(?:blob|tree)/main/")


@pytest.mark.parametrize("page", WITH_LINKS)
def test_links_lead_to_files_and_headings(page: str) -> None:
    """A renamed page or heading must not leave broken links, relative or absolute."""
    for target in re.findall(r"\]\(([^)]+)\)", (REPOSITORY / page).read_text()):
        name, _, anchor = HERE.sub("/", target).partition("#")
        if name.startswith("http"):
            continue
        path = REPOSITORY / page
        if name:
            path = REPOSITORY / name[1:] if name.startswith("/") else path.parent / name
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


def test_the_documentation_names_only_tests_that_exist() -> None:
    """A page names the test that proves a promise."""
    tests = "\n".join(
        path.read_text() for folder in ("tests", "native_tests") for path in (REPOSITORY / folder).glob("*.py")
    )
    known = {path.stem for folder in ("tests", "native_tests") for path in (REPOSITORY / folder).glob("*.py")}
    known |= set(re.findall(r"def (test_\w+)", tests))
    pages = "\n".join((REPOSITORY / page).read_text() for page in WITH_LINKS)

    assert set(re.findall(r"\b(test_\w+)(?=[`.])", pages)) - known == {"test_shop"}  # the reader's own
