"""docs/json.md: each command prints exactly the documented fields, with the documented types."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from native_tests.pages import section
from native_tests.processes import Processes, wait_until
from native_tests.redis_queue_server import P
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.route import QueuePlace, of_text
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

ROW = re.compile(r"^\| `([^`]+)` \| (\w+)( or null)? \|", re.MULTILINE)
EVENT = b'{"type":"track","userId":"u","event":"e"}\n'
TYPES = {"string": str, "time": str, "integer": int, "boolean": bool, "object": dict, "map": dict, "array": list}


def documented(command: str) -> dict[str, tuple[str, bool]]:
    """Return the type of each documented field of a command, and whether it may be null."""
    return {name: (kind, bool(null)) for name, kind, null in ROW.findall(section("json.md", command))}


def check(fields: dict[str, tuple[str, bool]], value: dict[str, Any], prefix: str = "") -> set[str]:
    """Check an object below a prefix, and return the names of its fields and of those within."""
    inner = {name for name in fields if name.startswith(prefix) and not re.search(r"[.]", name[len(prefix) :])}
    assert {f"{prefix}{name}" for name in value} == inner
    seen = set(inner)
    for key, each in value.items():
        name = f"{prefix}{key}"
        kind, may_be_null = fields[name]
        if each is None:
            assert may_be_null, name
            continue
        if kind == "number":
            assert type(each) in (int, float), name
        else:
            assert type(each) is TYPES[kind], name
        if kind == "time":
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each), name
            datetime.fromisoformat(each.replace("Z", "+00:00"))
        elif kind == "map":
            assert all(type(count) is int for count in each.values()), name
        elif kind == "object":
            seen |= check(fields, each, f"{name}.")
        elif kind == "array" and any(other.startswith(f"{name}[].") for other in fields):
            for item in each:
                seen |= check(fields, item, f"{name}[].")
    return seen


def printed(processes: Processes, command: str, *arguments: str, stdin: bytes = b"") -> list[Any]:
    """Return what a command prints, one value for each line."""
    done = processes.run("-m", "rudderpipe", *command.split(), *arguments, "--json", stdin=stdin)
    values = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    assert values, done.stderr
    return values


@pytest.mark.parametrize("through_redis", [False, True], ids=["direct", "queue"])
def test_every_command_prints_the_documented_fields(
    processes: Processes, redis_server: RedisServer, *, through_redis: bool
) -> None:
    """A program that reads the output must be able to rely on the page."""
    if through_redis:
        processes.explicit["redis"] = redis_server.url
    processes.explicit |= {"flush_at": 1, "autostart": False}
    processes.plane.misbehaviour = Misbehaviour(401)
    client = processes.client()
    assert client.track("u", "e")
    assert not client.track("u", "e", {"of no type": object()})

    (rings,) = printed(processes, "rings")
    assert rings
    ring_fields = documented("rings")
    for row in rings:
        assert check(ring_fields, row, "[].") == set(ring_fields)
    assert check(documented("drain"), *printed(processes, "drain")) == set(documented("drain"))
    if through_redis:
        assert check(documented("queue"), *printed(processes, "queue")) == set(documented("queue"))
        processes.start("-m", "rudderpipe.sender")
    wait_until(lambda: processes.status().events.failed == 1)
    (listed,) = printed(processes, "failed list")
    assert check(documented("failed list"), listed) == set(documented("failed list"))
    (shown,) = printed(processes, "failed show", listed["id"])
    assert check(documented("failed show"), shown) == set(documented("failed show"))
    assert [event["userId"] for event in shown["events"]] == ["u"]
    changes = documented("failed retry, delete and export")
    file = str(Path(processes.explicit["runtime_dir"]) / "exported.ndjson")
    for command, arguments, done in (
        ("failed retry", ("--all", "--dry-run"), 0),
        ("failed export", (file,), 1),
        ("failed delete", ("--all", "--dry-run"), 0),
    ):
        (changed,) = printed(processes, command, *arguments)
        assert check(changes, changed) == set(changes)
        assert changed == {"jobs": 1, "events": 1, "done": done}

    assert check(documented("doctor"), *printed(processes, "doctor")) == set(documented("doctor"))

    status_fields = documented("status")
    client_of_redis = redis_server.text_client()
    client_of_redis.hset(f"{P}x", "opts", '{"lane":"3/8"}')
    client_of_redis.set(f"{P}x:lock", "another")  # so that the sender leaves the job alone
    client_of_redis.lpush(f"{P}active", "x")
    if through_redis:
        wait_until(lambda: processes.status().senders)
        queues = of_text("", processes.settings).with_queues([QueuePlace("rudder-0")], 1)
        client_of_redis.set(Keys("rudder", "rudderEventsQueue").route, queues.text)
    seen = check(status_fields, *printed(processes, "status"))
    client_of_redis.delete(Keys("rudder", "rudderEventsQueue").route)
    client_of_redis.delete(f"{P}active")
    (of_none,) = printed(processes, "status", "--pipe", "misspelt", "--spill-dir", "/nowhere")
    seen |= check(status_fields, of_none)
    not_here: tuple[str, ...] = ("spool.",) if through_redis else ("jobs.", "queues[].", "sender.", "spill.")
    assert {name for name in status_fields if not name.startswith(not_here)} - seen == set()

    processes.plane.misbehaviour = Misbehaviour()
    processes.explicit["autostart"] = True
    del processes.explicit["pipe"]
    send_fields = documented("send")
    seen = check(send_fields, *printed(processes, "send", stdin=EVENT))
    assert seen == {name for name in send_fields if not name.startswith("resumed_from.")}
