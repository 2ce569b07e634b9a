"""The long storm: rounds of kills with real processes, each with a seed of its own; exit code 0 when nothing was wrong.

``--queues`` is the storm of several queues. A seed repeats the plan of its round: the producers, the acts against
processes, and the faults of the data plane. It does not repeat the timing.
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
from native_tests.queues_storm import FORMS, QueuesStorm
from native_tests.storm import MODES, Storm
from native_tests.storm_result import StormResult
from rudderpipe.testing.redis_server import RedisServer

PROGRESS_S = 10.0
COUNTED = ("accepted", "refused", "undecided", "undecided_but_there", "delivered", "failed", "lost", "repeated")


def counts(counter: Counter[str]) -> str:
    """Return the counts in one line, the most frequent first."""
    return ", ".join(f"{number:,} {name}" for name, number in counter.most_common()) or "nothing"


def storm_of(directory: Path, server: RedisServer, seed: int, arguments: argparse.Namespace) -> Storm | QueuesStorm:
    """Make the storm that the arguments ask for."""
    pauses = {"pause_s": arguments.pause, "faults_every_s": arguments.faults, "hold_s": arguments.hold}
    if arguments.queues is not None:
        return QueuesStorm(directory, seed, arguments.queues, **pauses)
    return Storm(
        directory, server, seed, modes=tuple(arguments.modes.split(",")), producers=arguments.producers, **pauses
    )


def one_round(seed: int, seconds: float, arguments: argparse.Namespace) -> tuple[Storm | QueuesStorm, StormResult]:
    """Run one storm in a directory of its own, and return it with its result."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rp-") as name:
        directory = Path(name)
        with RedisServer(directory, persistent=True) as server:
            storm = storm_of(directory, server, seed, arguments)
            try:
                while (left_s := seconds - (time.monotonic() - started_s)) > 0 and not storm.trouble:
                    storm.blow(min(PROGRESS_S, left_s))
                    print(f"  {time.monotonic() - started_s:4.0f} s  killed {counts(storm.deaths)}", flush=True)
                result = storm.calm()
            finally:
                storm.end()
        if result.problems and arguments.keep is not None:
            shutil.copytree(
                directory, arguments.keep / f"seed-{seed}", ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True
            )
    return storm, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="duration of the storm; the calm after each round is extra"
    )
    parser.add_argument("--modes", default=",".join(MODES), help=f"some of {', '.join(MODES)}; all by default")
    queues = f"change the number of queues on two hosts, in place of the modes, with Redis as one of {', '.join(FORMS)}"
    parser.add_argument("--queues", choices=FORMS, help=queues)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000, help="seed of the first round")
    parser.add_argument("--producers", type=int, default=1, help="producers at once in each pipe, without forked ones")
    parser.add_argument("--round", type=float, default=60.0, dest="seconds", help="seconds of a round")
    parser.add_argument("--pause", type=float, default=0.4, help="seconds between two acts, on average")
    parser.add_argument("--faults", type=float, default=3.0, help="seconds between two faults of the data plane")
    parser.add_argument("--hold", type=float, default=30.0, help="seconds for which a call to Redis is held")
    parser.add_argument("--keep", type=Path, help="directory for the files of a round with problems")
    arguments = parser.parse_args()
    print(report.machine())
    deaths: Counter[str] = Counter()
    acts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    events: Counter[str] = Counter()
    wrong, seed, left_s = 0, arguments.seed, arguments.minutes * 60
    while left_s > 0:
        print(f"round {seed - arguments.seed + 1}, seed {seed}", flush=True)
        storm, result = one_round(seed, min(arguments.seconds, left_s), arguments)
        left_s -= arguments.seconds
        print(
            f"        {result.accepted:,} accepted, {result.refused:,} refused, {result.undecided} undecided "
            f"({result.undecided_but_there} of them found), {result.delivered:,} delivered, "
            f"{result.failed:,} failed, {result.lost:,} lost, {result.repeated:,} repeated, {result.threads} threads",
            flush=True,
        )
        for problem in result.problems:
            print(f"        WRONG: {problem}", flush=True)
        wrong += len(result.problems)
        deaths += storm.deaths
        acts += storm.acts
        statuses += storm.statuses
        kinds += result.kinds
        for name in COUNTED:
            events[name] += getattr(result, name)
        seed += 1
    print(f"killed      {counts(deaths)}")
    print(f"else        {counts(acts)}")
    print(f"data plane  {counts(kinds)}")
    print(f"status      {counts(statuses)}")
    print(f"events      {counts(events)}")
    print(
        f"result      {'nothing is wrong' if not wrong else f'{wrong} things are WRONG'}, "
        f"seeds {arguments.seed} to {seed - 1}"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
