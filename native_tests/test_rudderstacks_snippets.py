"""The snippets of RudderStack's own documentation, in JavaScript with the real Node SDK and in Python with ours."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from native_tests.node_events import Event, comparable
from native_tests.node_programs import NodeProgram, NodePrograms
from native_tests.peers import Seen, watch
from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.testing.redis_server import RedisServer

PAGE = (Path(__file__).parent / "data" / "rudderstack-node-docs.md").read_text()
SNIPPETS = {
    name: (javascript, python)
    for name, javascript, python in re.findall(
        r"^## (.*?)\n\n```js\n(.*?)```\n\n```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE
    )
}
"""The JavaScript and the Python of each snippet."""
CALLS = ("identify", "track", "page", "group", "alias")
IMPORT = tuple(text.splitlines(keepends=True)[0] for text in SNIPPETS["start"])
"""The first line of the first snippet."""


def javascript(program: NodeProgram, *names: str) -> None:
    """Run the JavaScript of these snippets."""
    for name in names:
        program.ask(run=SNIPPETS[name][0])


def python(processes: Processes, *names: str, before: str = "", **variables: object) -> list[str]:
    """Run the Python of these snippets as one program, and return the lines that it prints."""
    for name in ("pipe", "data_plane_url", "write_key"):  # the snippets give them
        processes.explicit.pop(name, None)
    mine = "".join(f"{name} = {value!r}\n" for name, value in variables.items())
    callback = "def callback(error=None):\n    print('callback', error)\n"
    program = "".join((mine, callback, before, *(SNIPPETS[name][1] for name in names), "client.shutdown()\n"))
    done = processes.run("-c", program)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return done.stdout.decode().splitlines()


class Plane:
    """What arrived at the data plane since the last look."""

    def __init__(self, processes: Processes) -> None:
        self.seen: list[Seen] = watch(processes.plane)
        self._plane = processes.plane
        self._taken = 0

    def take(self, since: datetime) -> list[Event]:
        """Wait for one event of each call, in their order, and return the events."""
        wait_until(lambda: len(self._events()) >= self._taken + len(CALLS))
        events = self._events()[self._taken :]
        self._taken += len(events)
        assert [event["type"] for event in events] == list(CALLS)
        return [comparable(event, since) for event in events]

    def _events(self) -> list[dict[str, Any]]:
        return [event for body in self._plane.last_events() for event in json.loads(body)["batch"]]


@pytest.fixture(name="plane_of_both")
def _plane_of_both(processes: Processes) -> Plane:
    return Plane(processes)


def test_every_snippet_is_there() -> None:
    """The page has a heading for each snippet, and both languages below it."""
    assert list(SNIPPETS) == re.findall("^## (.*)$", PAGE, re.MULTILINE)
    assert set(CALLS) < set(SNIPPETS)


def test_the_snippets_send_what_the_node_sdk_sends(
    processes: Processes, node: NodePrograms, plane_of_both: Plane
) -> None:
    """The first line has ``/v1/batch`` at the end of the URL, where the events must arrive."""
    names = ("start", *CALLS, "flush")
    since = datetime.now(timezone.utc).replace(microsecond=0)
    url = processes.plane.url

    program = node.start("snippets", write_key="KEY", data_plane_url=url)
    javascript(program, *names)
    assert program.heard("log", 1) == [["Flushing done"]]
    theirs = plane_of_both.take(since)
    printed = python(processes, *names, WRITE_KEY="KEY", DATA_PLANE_URL=url)
    ours = plane_of_both.take(since)

    assert ours == theirs
    assert printed == ["Flushing done"]
    assert {(seen.path, seen.write_key) for seen in plane_of_both.seen} == {("/v1/batch", "KEY")}
    assert {seen.by_node for seen in plane_of_both.seen} == {True, False}


def test_the_snippets_with_a_queue_send_what_the_node_sdk_sends(
    processes: Processes, node: NodePrograms, plane_of_both: Plane, directory: Path
) -> None:
    """The second form of the constructor, the queue's options, and each call. The queue is in Redis on a port."""
    port = free_port()
    start = ("start with options", "the queue's options", "the queue")
    since = datetime.now(timezone.utc).replace(microsecond=0)
    url = processes.plane.url
    (directory / "port").mkdir()
    with RedisServer(directory / "port", "--port", str(port)) as server:
        program = node.start("snippets", write_key="KEY", data_plane_url=url, redis_port=port)
        program.ask(run=IMPORT[0])
        javascript(program, *start)
        assert program.heard("callback", 1) == [[None]]
        javascript(program, *CALLS, "flush")
        theirs = plane_of_both.take(since)
        wait_until(lambda: not server.text_client().llen("{rudder}:rudderEventsQueue:active"))
        program.kill()
        jobs_of_node = int(server.text_client().get("{rudder}:rudderEventsQueue:id"))
        processes.explicit["linger_s"] = 0
        names = (*start, *CALLS, "flush")
        printed = python(processes, *names, before=IMPORT[1], WRITE_KEY="KEY", DATA_PLANE_URL=url, REDIS_PORT=port)
        ours = plane_of_both.take(since)

        assert ours == theirs
        assert sorted(printed) == ["Flushing done", "callback None"]
        assert {(seen.path, seen.write_key) for seen in plane_of_both.seen} == {("/v1/batch", "KEY")}
        assert int(server.text_client().get("{rudder}:rudderEventsQueue:id")) > jobs_of_node
        wait_until(lambda: not processes.own_processes())


def test_the_node_sdk_itself_ignores_the_url_of_the_documentation(node: NodePrograms) -> None:
    """docs/node.md says so, and says what happens here instead."""
    program = node.start("snippets", write_key="KEY", data_plane_url="http://127.0.0.1:9")

    assert program.ask(host="http://127.0.0.1:9/v1/batch") == "https://hosted.rudderlabs.com"
