"""The long storm: rounds of kills with real processes, each with a seed of its own; exit code 0 when nothing was wrong.

A round's seed repeats the round's plan (which producers, what is done to whom, and when), not its timing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench import report
from native_tests.storm import Storm
from native_tests.storm_verdict import Verdict
from native_tests.world import World
from rudderpipe.cli.data_plane import DataPlaneServer, Misbehaviour
from rudderpipe.cli.redis_server import RedisServer

PROGRESS_S = 10.0


def counts(counter: Counter[str]) -> str:
    """What was counted, the most frequent first."""
    return ", ".join(f"{number:,} {name}" for name, number in counter.most_common()) or "nothing"


def one_round(seed: int, seconds: float, producers: int, pause_s: float, kept: Path | None) -> tuple[Storm, Verdict]:
    """A world of its own; what is wrong is in the verdict."""
    plane = DataPlaneServer(0, Misbehaviour())
    started_s = time.monotonic()
    with plane, tempfile.TemporaryDirectory(prefix="rp-") as name:
        directory = Path(name)
        with RedisServer(directory, persistent=True) as server:
            world = World(directory, plane)
            storm = Storm(world, server, seed, producers=producers, pause_s=pause_s)
            try:
                while (left_s := seconds - (time.monotonic() - started_s)) > 0 and not storm.watch.trouble:
                    storm.blow(min(PROGRESS_S, left_s))
                    print(f"  {time.monotonic() - started_s:4.0f} s  killed {counts(storm.crowd.deaths)}", flush=True)
                verdict = storm.calm()
            finally:
                storm.watch.end()
                world.end()
        if verdict.problems and kept is not None:
            shutil.copytree(directory, kept / f"seed-{seed}", ignore=shutil.ignore_patterns("*.sock"))
    return storm, verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000, help="of the first round")
    parser.add_argument("--producers", type=int, default=4, help="at once; those that they fork come on top")
    parser.add_argument("--round", type=float, default=40.0, dest="seconds", help="seconds of a round")
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between two blows, on average")
    parser.add_argument("--keep", type=Path, help="directory for what is left of a round that went wrong")
    arguments = parser.parse_args()
    print(report.machine())
    deaths: Counter[str] = Counter()
    acts: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    events: Counter[str] = Counter()
    wrong, seed = 0, arguments.seed
    end_s = time.monotonic() + arguments.minutes * 60
    while time.monotonic() < end_s:
        print(f"round {seed - arguments.seed + 1}, seed {seed}", flush=True)
        storm, verdict = one_round(seed, arguments.seconds, arguments.producers, arguments.pause, arguments.keep)
        print(
            f"        {verdict.accepted:,} accepted, {verdict.refused:,} refused, {verdict.undecided} undecided "
            f"({verdict.undecided_but_there} of them there), {verdict.threads} threads, {verdict.rings} rings"
        )
        for problem in verdict.problems:
            print(f"        WRONG: {problem}")
        wrong += len(verdict.problems)
        deaths += storm.crowd.deaths
        acts += storm.crowd.acts
        answers += storm.watch.answers
        for name in ("accepted", "refused", "undecided", "undecided_but_there", "jobs", "rings"):
            events[name] += getattr(verdict, name)
        seed += 1
    print(f"killed      {counts(deaths)}")
    print(f"else        {counts(acts)}")
    print(f"status      {counts(answers)}")
    print(f"events      {counts(events)}")
    print(
        f"verdict     {'nothing is wrong' if not wrong else f'{wrong} things are WRONG'}, "
        f"seeds {arguments.seed} to {seed - 1}"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
