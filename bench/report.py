"""The results of benchmarks: what is measured, on which rig, the samples of each candidate, and how they are shown."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

WITHOUT_AOF = "Redis on this machine over a unix socket, without an append-only file"


class Rig(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a round of a benchmark is made of."""

    events: int = 0
    """Events or calls of each candidate in a round, at most; 0 where a round is not bounded by events."""
    seconds: float = 0.0
    """Duration of each candidate's round; 0 where a round is not bounded by time."""
    redis: str = ""
    memory: str = ""
    """Which memory is counted."""
    note: str = ""


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """The samples of each candidate in one run, one a round, taken in turn. Ratios refer to the first candidate."""

    name: str
    """The name by which the page finds its table."""
    title: str
    unit: str
    samples: dict[str, list[float]]
    rig: Rig
    higher_is_better: bool = False
    compared: bool = True
    """False where the rows are parts or percentiles, which have no ratio."""

    @property
    def rounds(self) -> int:
        """Return the number of samples of the first candidate."""
        return len(next(iter(self.samples.values())))

    def median(self, candidate: str) -> float:
        return statistics.median(self.samples[candidate])

    def best(self, candidate: str) -> float:
        return (max if self.higher_is_better else min)(self.samples[candidate])

    def spread(self, candidate: str) -> float:
        """Return the difference between the largest and the smallest sample, as a part of the median."""
        values, median = self.samples[candidate], self.median(candidate)
        return (max(values) - min(values)) / median if median else 0.0

    def ratio(self, candidate: str) -> float:
        """Return how many times the first candidate is better, by the medians."""
        first, own = self.median(next(iter(self.samples))), self.median(candidate)
        above, below = (first, own) if self.higher_is_better else (own, first)
        return above / below if below else 0.0


def processor() -> str:
    """Return the number of cores and the model of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return f"{os.cpu_count()} x {names[0] if names else 'unknown processor'}"


def python() -> str:
    """Return the version of Python, and whether it was built with profile-guided optimisation."""
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    how = "with" if optimised else "without"
    return f"{platform.python_implementation()} {platform.python_version()}, built {how} profile-guided optimisation"


def machine() -> str:
    """Return Python, system, processor and load in one line."""
    version = ".".join(map(str, sys.version_info[:3]))
    load = os.getloadavg()[0]
    return f"Python {version}, {platform.system()} {platform.machine()}, {processor()}, load {load:.1f}"


def show(result: Result) -> None:
    """Print minimum, median and maximum of each candidate, and the ratio of its median to the first one's."""
    print(f"\n{result.title}")
    print(f"{'':42}{'min':>12}{'median':>12}{'max':>12}  {result.unit}")
    for name, values in result.samples.items():
        ratio = f"  {result.ratio(name):6.1f}x" if result.compared else ""
        print(f"{name:42}{min(values):12,.2f}{result.median(name):12,.2f}{max(values):12,.2f}{ratio}")
    better = "x: how many times the first one is better; " if result.compared else ""
    print(f"({better}{result.rounds} rounds, taken in turn)", flush=True)


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--results", type=Path, metavar="FILE", help="also write the results to this file, as JSON")
    return parser


def publish(results: Iterable[Result], path: Path | None) -> None:
    """Print the machine and each result when it is there, and write all results to ``path``."""
    print(machine(), flush=True)
    made = []
    for result in results:
        show(result)
        samples = {name: [float(f"{value:.4g}") for value in values] for name, values in result.samples.items()}
        made.append(msgspec.structs.replace(result, samples=samples))
    if path is not None:
        path.write_bytes(msgspec.json.encode(made))


def in_turn(rounds: int, candidates: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure each candidate once in every round."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            samples[name].append(measure())
    return samples
