"""The cost of one ``track()`` for its caller, in microseconds, compared with other SDKs in one run.

Each round makes the same number of calls with each SDK while the SDK's own machinery runs. That is our flusher in its
process, and the other SDKs' threads in the caller's process. Then the round waits, untimed, until all events are sent
to a local data plane.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any

import rudderpipe
from bench import peers, report
from bench.report import Result, Rig
from bench.servers import rss_mb
from rudderpipe.compat import rudderstack
from rudderpipe.types import TrackMessage

CALLS = 5_000
NESTED: dict[str, Any] = {
    "order_id": "o-1",
    "total": 20.5,
    "products": [{"sku": "a", "price": 1.5, "quantity": 1}, {"sku": "b", "price": 2.5, "quantity": 2}],
    "shipping": {"city": "Berlin", "zip": "10115"},
}


def start_plane() -> tuple[subprocess.Popen[bytes], str]:
    """Start a local data plane in a process of its own, and return the process and its URL."""
    command = [sys.executable, "-m", "rudderpipe", "data-plane", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    return process, next(word.rstrip(",") for word in line.split() if word.startswith("http://"))


def microseconds(call: peers.Call, calls: int) -> float:
    """Return the time of one call, on average over so many."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls * 1e6


def with_extras(url: str, directory: str, plain: rudderpipe.Client) -> dict[str, tuple[peers.Call, peers.Call]]:
    """Return calls of clients that do more than a plain call, each with the function that waits for its events."""

    def shaped(**options: Any) -> tuple[peers.Call, peers.Call]:
        client = rudderpipe.Client(
            "KEY", url, runtime_dir=directory, pipe="bench-call", linger_s=0.1, flush_at=100, **options
        )
        return (
            lambda: client.track("123456", "Item Viewed", peers.PROPERTIES),
            lambda: client.flush(60),
        )

    def in_request() -> bool:
        with rudderpipe.request_context({"ip": "203.0.113.7"}):
            return plain.track("123456", "Item Viewed", peers.PROPERTIES)

    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    price = Decimal("19.95")
    return {
        "plain": (lambda: plain.track("123456", "Item Viewed", peers.PROPERTIES), lambda: plain.flush(60)),
        "four containers within each other": (
            lambda: plain.track("123456", "Order Completed", NESTED),
            lambda: plain.flush(60),
        ),
        "a datetime and a Decimal": (
            lambda: plain.track("123456", "Item Viewed", {**peers.PROPERTIES, "when": when, "revenue": price}),
            lambda: plain.flush(60),
        ),
        "identify": (lambda: plain.identify("123456", peers.PROPERTIES), lambda: plain.flush(60)),
        "page": (lambda: plain.page("123456", "Docs", "Queue", peers.PROPERTIES), lambda: plain.flush(60)),
        "group": (lambda: plain.group("123456", "acme", peers.PROPERTIES), lambda: plain.flush(60)),
        "alias": (lambda: plain.alias("anonymous-1", "123456"), lambda: plain.flush(60)),
        "a whole message": (
            lambda: plain.track({"userId": "123456", "event": "Item Viewed", "properties": peers.PROPERTIES}),
            lambda: plain.flush(60),
        ),
        "in a request context": (in_request, lambda: plain.flush(60)),
        "with a callback": (
            lambda: plain.track("123456", "Item Viewed", peers.PROPERTIES, callback=lambda _error: None),
            lambda: plain.flush(60),
        ),
        "context and integrations": shaped(context={"app": {"name": "shop"}}, integrations={"All": True}),
        "before_send": shaped(before_send=lambda message: message),
        "scrubber": shaped(scrubber=rudderpipe.Scrubber()),
        "drop-in for rudder-sdk-python": (_drop_in(url, directory), lambda: plain.flush(60)),
    }


def _drop_in(url: str, directory: str) -> peers.Call:
    client = rudderstack.Client("KEY", url, runtime_dir=directory, pipe="bench-call", linger_s=0.1, upload_size=100)
    return lambda: client.track("123456", "Item Viewed", peers.PROPERTIES)


def import_ms(module: str) -> float:
    """Return the time of an import in a process of its own."""
    code = f"import time; started = time.perf_counter(); import {module}; print((time.perf_counter() - started) * 1e3)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def import_mb(module: str) -> float:
    """Return the resident memory of a process that has made an import, less that of one that has not."""
    return _rss_mb(f"import {module}") - _rss_mb("")


def _rss_mb(code: str) -> float:
    command = [sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = rss_mb(process.pid)
        process.communicate(b"\n")
    return found


def timed(calls: dict[str, tuple[peers.Call, peers.Call]], rounds: int) -> dict[str, list[float]]:
    """Return the microseconds of each call in every round; what it started is waited for untimed."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, wait) in calls.items():
            samples[name].append(microseconds(call, CALLS))
            wait()
    return samples


def sent_many(client: rudderpipe.Client, messages: list[TrackMessage]) -> float:
    """Return the microseconds of ``send_many`` for one of the messages."""
    started = time.perf_counter()
    sent = client.send_many(messages)
    taken_s = time.perf_counter() - started
    assert sent.accepted == len(messages), sent
    client.flush(60)
    return taken_s / len(messages) * 1e6


def sent_singly(client: rudderpipe.Client, messages: list[TrackMessage]) -> float:
    """Return the microseconds of a call of ``track`` with a whole message."""
    started = time.perf_counter()
    for message in messages:
        client.track(message)
    taken_s = time.perf_counter() - started
    client.flush(60)
    return taken_s / len(messages) * 1e6


def results(rounds: int, *, alone: bool) -> Iterator[Result]:
    peers.quiet()
    rig = Rig(events=CALLS, note="flusher and data plane run on the same machine; without Redis")
    plane, url = start_plane()
    try:
        with tempfile.TemporaryDirectory() as directory:
            client = rudderpipe.Client("KEY", url, runtime_dir=directory, pipe="bench-call", linger_s=0.1, flush_at=100)
            calls: dict[str, tuple[peers.Call, peers.Call]] = {
                "rudderpipe": (
                    lambda: client.track("123456", "Item Viewed", peers.PROPERTIES),
                    lambda: client.flush(60),
                )
            }
            if not alone:
                calls["rudder-sdk-python"] = peers.rudder_sdk_python(url)
                calls["segment-analytics-python"] = peers.segment_analytics_python(url)
                calls["posthog"] = peers.posthog(url)
            title = f"one track() of a 450-byte event, {CALLS:,} in a row"
            yield Result("track", title, "us", timed(calls, rounds), rig)
            extras = timed(with_extras(url, directory, client), rounds)
            yield Result("other_calls", "the other calls, and calls that do more than a plain one", "us", extras, rig)
            message: TrackMessage = {
                "type": "track",
                "userId": "123456",
                "event": "Item Viewed",
                "properties": peers.PROPERTIES,
            }
            ways = {"send_many()": sent_many, "a track() for each": sent_singly}
            many = {name: partial(way, client, [message] * CALLS) for name, way in ways.items()}
            title = f"one of {CALLS:,} whole messages of 450 bytes"
            yield Result("send_many", title, "us", report.in_turn(rounds, many), rig)
            client.shutdown()
    finally:
        plane.kill()
        plane.wait()
    modules = ["rudderpipe"] if alone else ["rudderpipe", *peers.MODULES]
    rig = Rig(note="each import in a process of its own")
    samples = report.in_turn(rounds, {f"import {module}": partial(import_ms, module) for module in modules})
    yield Result("import", "import, less a bare Python's", "ms", samples, rig)
    rig = Rig(memory="resident memory of the process, less that of a bare Python")
    samples = report.in_turn(rounds, {f"import {module}": partial(import_mb, module) for module in modules})
    yield Result("import_memory", "memory of an import", "MB", samples, rig)


def main() -> None:
    parser = report.options(__doc__, rounds=9)
    parser.add_argument("--alone", action="store_true", help="only rudderpipe")
    arguments = parser.parse_args()
    report.publish(results(arguments.rounds, alone=arguments.alone), arguments.results)


if __name__ == "__main__":
    main()
