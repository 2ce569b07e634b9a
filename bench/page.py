"""``docs/benchmarks.md``, made from the newest file in ``bench/results/`` and the template ``bench/page.md``.

A line ``{{name}}`` of the template stands for the table of the result with that name, ``{{machine}}`` for the rig.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from bench.report import Result

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
UNITS = {"us": "\N{MICRO SIGN}s"}


class Run(msgspec.Struct):
    """One run of all benchmarks: what it ran on, and its results."""

    version: str
    date: str
    quick: bool
    python: str
    system: str
    processor: str
    load: float
    """The load average of one minute when the run began."""
    redis: str
    packages: dict[str, str]
    results: list[Result] = []


def newest() -> Run:
    """Return the results of the newest version."""
    paths = RESULTS.glob("*.json")
    return read(max(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)]))


def read(path: Path) -> Run:
    return msgspec.json.decode(path.read_bytes(), type=Run)


def figure(value: float) -> str:
    """Return three significant digits, with separators of thousands."""
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 100 or not rounded:
        return f"{rounded:,.0f}"
    return f"{rounded:.1f}" if abs(rounded) >= 10 else f"{rounded:.2f}"


def table(result: Result) -> str:
    """Return the table of a result, with its title and a line about its rig."""
    unit = UNITS.get(result.unit, result.unit)
    head = ["", f"median, {unit}", "best", "spread", *(["ratio"] if result.compared else [])]
    lines = [f"{result.title[0].upper()}{result.title[1:]}:", "", _row(head), _row(["---"] * len(head))]
    for name in result.samples:
        cells = [name, figure(result.median(name)), figure(result.best(name)), f"{result.spread(name):.0%}"]
        if result.compared:
            ratio = result.ratio(name)
            cells.append(f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}")
        lines.append(_row(cells))
    return "\n".join([*lines, "", _rig(result)])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rig(result: Result) -> str:
    rig = result.rig
    rounds = f"{result.rounds:,} round{'s' if result.rounds > 1 else ''}"
    size = f" of {rig.events:,}" if rig.events else f" of {rig.seconds:g} s" if rig.seconds else ""
    memory = f"memory: {rig.memory}" if rig.memory else ""
    return "; ".join(part for part in (rounds + size, rig.redis, memory, rig.note) if part) + "."


def machine(run: Run) -> str:
    """Return what the figures were measured on."""
    packages = ", ".join(f"{name} {version}" for name, version in run.packages.items())
    size = "A quick run, with few rounds and few events" if run.quick else "A full run"
    lines = [
        ("version", f"rudderpipe {run.version}, {run.date}"),
        ("run", f"{size}; load average {run.load:g} at its start"),
        ("machine", f"{run.processor}, {run.system}"),
        ("Python", run.python),
        ("Redis", run.redis),
        ("packages", packages),
    ]
    return "\n".join([_row(["", ""]), _row(["---", "---"]), *(_row(list(line)) for line in lines)])


def page(run: Run, template: str) -> str:
    """Return the page. Raise ``ValueError`` unless each result has its place in the template, and the other way."""
    made = {"machine": machine(run), **{result.name: table(result) for result in run.results}}
    named = re.findall(r"^\{\{(\w+)\}\}$", template, re.MULTILINE)
    if different := set(made).symmetric_difference(named):
        raise ValueError(f"only in the results or only in the template: {', '.join(sorted(different))}")
    return re.sub(r"^\{\{(\w+)\}\}$", lambda found: made[found[1]], template, flags=re.MULTILINE)


def current() -> str:
    """Return the page as the newest results make it."""
    return page(newest(), (HERE / "page.md").read_text())


if __name__ == "__main__":
    PAGE.write_text(current())
