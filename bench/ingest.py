"""The rate of ``rudderpipe send`` for a file of events, beside a script around RudderStack's Python SDK.

The time is that of the whole command, from its start until it has ended and the data plane has every event. Flusher
and sender run before.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench import report
from bench.plane import Plane
from bench.report import Result, Rig
from bench.servers import servers

LINE_BYTES = 877
PEER_SCRIPT = """
import json, sys
from bench import peers
peers.quiet()
from rudderstack.analytics.client import Client
client = Client("KEY", host=sys.argv[2], max_queue_size=1_000_000)
with open(sys.argv[1], "rb") as lines:
    for line in lines:
        message = json.loads(line)
        client.track(message["userId"], message["event"], message["properties"], message["context"])
client.flush()
"""


def write_lines(path: Path, count: int) -> None:
    """Write so many events, each a line of ``LINE_BYTES`` with its end."""
    with path.open("wb") as file:
        for number in range(count):
            properties = {
                **{f"property_{each}": f"value {each} of {number}" for each in range(12)},
                "revenue": 19.95,
                "quantity": 2,
            }
            event = {
                "type": "track",
                "event": "Item Viewed",
                "userId": f"user-{number % 1000}",
                "messageId": f"line-{number:032d}",
                "timestamp": "2026-01-01T00:00:00.000Z",
                "properties": properties,
                "context": {"page": {"url": "https://shop.example.com/items"}, "padding": ""},
            }
            missing = LINE_BYTES - 1 - len(msgspec.json.encode(event))
            event["context"] = {"page": {"url": "https://shop.example.com/items"}, "padding": "x" * missing}
            file.write(msgspec.json.encode(event) + b"\n")


def ours(plane: Plane, lines: Path, count: int, *, redis: bool) -> float:
    """Return the lines a second of ``rudderpipe send``."""
    with servers(plane.url, redis=redis) as found:
        for name in ("flusher", "sender") if redis else ("flusher",):
            found.program(name)
        found.await_start()
        return timed(plane, count, "-m", "rudderpipe", "send", "--again", str(lines), **found.environment)


def peer(plane: Plane, lines: Path, count: int) -> float:
    """Return the lines a second of the script around the other SDK."""
    with servers(plane.url, redis=False) as found:
        return timed(plane, count, "-c", PEER_SCRIPT, str(lines), plane.url, **found.environment)


def timed(plane: Plane, count: int, *command: str, **environment: str) -> float:
    """Run a Python program that sends so many events, and return the events a second."""
    plane.stats(reset=True)
    started_s = time.monotonic()
    subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
    taken_s = time.monotonic() - started_s
    arrived = plane.stats().events
    if arrived != count:
        raise SystemExit(f"{arrived} of {count} events arrived")
    return count / taken_s


def results(rounds: int, count: int) -> Iterator[Result]:
    few = count // 8
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, Plane() as plane:
        all_lines, few_lines = Path(directory, "all"), Path(directory, "few")
        write_lines(all_lines, count)
        write_lines(few_lines, few)
        rates = report.in_turn(
            rounds,
            {
                "rudderpipe send, through Redis": lambda: ours(plane, all_lines, count, redis=True),
                "rudderpipe send, direct": lambda: ours(plane, all_lines, count, redis=False),
                "a script around rudder-sdk-python": lambda: peer(plane, few_lines, few),
            },
        )
    note = f"lines of {LINE_BYTES} bytes; the whole command, its start included; {few:,} lines for the script"
    rig = Rig(events=count, redis=report.WITHOUT_AOF, note=note)
    yield Result("send", "a file of events", "lines/s", rates, rig, higher_is_better=True)


def main() -> None:
    parser = report.options(__doc__, rounds=5)
    parser.add_argument("--lines", type=int, default=200_000)
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, arguments.lines), arguments.results)


if __name__ == "__main__":
    main()
