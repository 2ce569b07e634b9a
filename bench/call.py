"""What a call costs its caller: microseconds of one ``track()``, beside the peers, in one run.

Each round makes so many calls with one SDK, its own machinery running (our flusher in its process, the peers' threads
in ours), and then waits, untimed, until all is sent to a local data plane.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import rudderpipe
from bench import peers, report

CALLS = 5_000


def start_plane() -> tuple[subprocess.Popen[bytes], str]:
    """A local data plane in a process of its own."""
    command = [sys.executable, "-m", "rudderpipe", "data-plane", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    return process, next(word.rstrip(",") for word in line.split() if word.startswith("http://"))


def microseconds(call: peers.Call, calls: int) -> float:
    """Of one call, on average over so many."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--alone", action="store_true", help="only rudderpipe")
    arguments = parser.parse_args()
    peers.quiet()
    print(report.machine())
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
            if not arguments.alone:
                calls["rudder-sdk-python"] = peers.rudder_sdk_python(url)
                calls["segment-analytics-python"] = peers.segment_analytics_python(url)
                calls["posthog"] = peers.posthog(url)
            samples: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(arguments.rounds):
                for name, (call, wait) in calls.items():
                    samples[name].append(microseconds(call, CALLS))
                    wait()
            report.table(f"one track() of a 450-byte event, {CALLS:,} in a row", "us", samples, higher_is_better=False)
            client.shutdown()
    finally:
        plane.kill()
        plane.wait()


if __name__ == "__main__":
    main()
