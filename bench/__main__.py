"""The benchmarks of ``docs/benchmarks.md`` in one run, each in a process of its own.

The results are written to ``bench/results/<version>.json``. ``python -m bench.page`` makes the page from them.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import msgspec

from bench import report
from bench.page import RESULTS, Run
from bench.report import Result
from rudderpipe._version import VERSION
from rudderpipe.testing import redis_server

PARTS = {
    "call": ("", "--rounds 3"),
    "gunicorn": ("", "--rounds 2"),
    "latency": ("", "--rounds 1"),
    "ring": ("", "--rounds 5"),
    "end_to_end": ("", "--rounds 1 --events 60000"),
    "slow_plane": ("", "--rounds 1 --events 60000"),
    "ingest": ("", "--rounds 1 --lines 60000"),
    "backlog": ("", "--rounds 1 --events 200000"),
    "arrival": ("", "--rounds 1 --seconds 4"),
    "idle": ("", "--rounds 1 --seconds 10 --events 30"),
    "scale": ("--producers", "--rounds 1 --events 40000 --producers"),
}
"""The modules, each with its options in a full run and in a quick one."""
PEERS = (
    "rudder-sdk-python",
    "segment-analytics-python",
    "posthog",
    "faster-fifo",
    "isal",
    "hiredis",
    "redis",
    "msgspec",
)


def packages() -> dict[str, str]:
    """Return the versions of the installed peers, and of what makes us faster."""
    installed = {each.name.lower(): each.version for each in metadata.distributions()}
    return {name: installed[name] for name in PEERS if name in installed}


def redis_version() -> str:
    """Return the version of the Redis that the benchmarks start."""
    done = subprocess.run([redis_server.executable(), "--version"], capture_output=True, check=True, text=True)
    return next(word.removeprefix("v=") for word in done.stdout.split() if word.startswith("v="))


def measure(module: str, options: list[str]) -> list[Result]:
    """Run one benchmark, which prints its tables, and return its results."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "results")
        started_s = time.monotonic()
        print(f"\n\npython -m bench.{module} {' '.join(options)}", flush=True)
        subprocess.run([sys.executable, "-m", f"bench.{module}", "--results", str(path), *options], check=True)
        print(f"({time.monotonic() - started_s:.0f} s)", flush=True)
        return msgspec.json.decode(path.read_bytes(), type=list[Result])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and events: a few minutes")
    quick = parser.parse_args().quick
    run = Run(
        version=VERSION,
        date=datetime.now(timezone.utc).date().isoformat(),
        quick=quick,
        python=report.python(),
        system=f"{platform.system()} {platform.machine()}",
        processor=report.processor(),
        load=round(os.getloadavg()[0], 2),
        redis=redis_version(),
        packages=packages(),
    )
    for module, options in PARTS.items():
        run.results += measure(module, options[quick].split())
    path = RESULTS / f"{VERSION}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    print(f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
