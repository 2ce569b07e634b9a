"""The output of every benchmark: the machine, medians and ratios."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def machine() -> str:
    """Return Python, system, processor and load in one line."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    version = ".".join(map(str, sys.version_info[:3]))
    load = os.getloadavg()[0]
    return f"Python {version}, {platform.system()} {platform.machine()}, {os.cpu_count()} x {model}, load {load:.1f}"


def table(title: str, unit: str, samples: Mapping[str, Sequence[float]], *, higher_is_better: bool) -> None:
    """Print minimum, median and maximum of each candidate, and the ratio of its median to the first one's."""
    first = statistics.median(next(iter(samples.values())))
    print(f"\n{title}")
    print(f"{'':34}{'min':>12}{'median':>12}{'max':>12}  {unit}")
    for name, values in samples.items():
        median = statistics.median(values)
        ratio = first / median if higher_is_better else median / first
        print(f"{name:34}{min(values):12,.2f}{median:12,.2f}{max(values):12,.2f}  {ratio:6.1f}x")
    print(f"(x: how many times the first one is better; {len(next(iter(samples.values())))} rounds, taken in turn)")
