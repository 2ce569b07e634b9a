"""A producer of the storm, with threads, with forked children, or with a new program in its place."""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from native_tests.storm_marks import MOST, Marks
from rudderpipe import Client, RingError

KINDS = ("plain", "threads", "forks", "threads and forks", "exec")
PADS = tuple("x" * size for size in (60, 120, 40_000, 200_000))
SHARES = (600, 390, 8, 2)
"""Events of each size in a thousand. Most have about 300 bytes, a few fill a block, and a few need a run of blocks."""
BAD = 0.01
"""The share of events that the data plane refuses."""
CHILDREN, GENERATIONS = 3, 2


class Producer:
    """One process, whose behaviour follows from the seed and its name."""

    def __init__(self, home: Path, seed: str, name: str, kind: str, client: Client, generation: int = 0) -> None:
        self._home = home
        self._seed = seed
        self._name = name
        self._kind = kind
        self._client = client
        self._generation = generation
        self._children: list[int] = []
        self._forked = 0
        self._forking = threading.Lock()

    def live(self) -> None:
        """Produce with one thread or several, and then end in one of the ways in which processes end."""
        chance = random.Random(f"{self._seed}/{self._name}")
        number = chance.randint(2, 3) if "threads" in self._kind else 1
        threads = [threading.Thread(target=self._produce, args=(thread,)) for thread in range(1, number)]
        for thread in threads:
            thread.start()
        self._produce(0)
        for thread in threads:
            thread.join()
        if self._must_stop() or chance.random() < 0.5:
            self._client.shutdown()
        elif self._kind == "exec":
            command = ["-m", "native_tests.storm_producer", *sys.argv[1:3], f"{self._name}x", self._kind]
            os.execv(sys.executable, [sys.executable, *command])

    def _must_stop(self) -> bool:
        return (self._home / "stop").exists()

    def _produce(self, thread: int) -> None:
        chance = random.Random(f"{self._seed}/{self._name}/{thread}")
        pause, most_s = threading.Event().wait, chance.choice((0.1, 0.3, 0.8))
        marks = Marks(self._home, self._name, thread)
        number, last = 0, min(MOST, int(chance.expovariate(1 / 3000)) + 1)
        while number < last and not self._must_stop():
            burst = chance.randint(1, 40) if chance.random() < 0.99 else chance.randint(500, 2500)
            end = min(last, number + burst)
            accepted = True
            while number < end and accepted:
                bad = {"bad": True} if chance.random() < BAD else {}
                accepted = self._track(marks, thread, number, {"pad": chance.choices(PADS, SHARES)[0], **bad})
                number += 1
            if "forks" in self._kind and chance.random() < 0.03:
                self._fork()
            pause(chance.uniform(0, most_s))
        marks.end()

    def _track(self, marks: Marks, thread: int, number: int, more: dict[str, Any]) -> bool:
        properties = {"producer": self._name, "thread": thread, "n": number, **more}
        marks.attempt(number)
        try:
            accepted = self._client.track(f"{self._name} {thread}", "e", properties)  # a user's events are in order
        except RingError:
            accepted = False
        marks.decide(number, accepted=accepted)
        return accepted

    def _fork(self) -> None:
        """Fork a child that produces with the inherited client, while other threads may be in the middle of a call."""
        with self._forking:
            self._children = [pid for pid in self._children if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            if self._generation == GENERATIONS or len(self._children) == CHILDREN:
                return
            self._forked += 1
            name = f"{self._name}.{self._forked}"
            pid = os.fork()
            if pid:
                self._children.append(pid)
                return
        code = 1
        try:
            Producer(self._home, self._seed, name, self._kind, self._client, self._generation + 1).live()
            code = 0
        except BaseException:  # noqa: BLE001  # the child must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(code)


def settings_of(seed: str, name: str) -> dict[str, Any]:
    """Return settings that differ between producers; the process that makes ring or flusher decides theirs."""
    chance = random.Random(f"{seed}/{name}/settings")
    return {
        "when_full": chance.choice(("drop", "drop", "block", "raise")),
        "block_timeout_ms": chance.choice((20, 500)),
        "max_internal_queue_size": chance.choice((500, 2_000, 20_000, 20_000)),
        "ring_bytes": chance.choice((1 << 20, 8 << 20, 32 << 20)),
        "flush_at": chance.choice((7, 20, 100)),
        "max_batch_bytes": chance.choice((5_000, 460_800)),
    }


def main() -> None:
    """Produce with ``RUNTIME_DIR SEED NAME KIND``; the other settings are in the environment."""
    runtime_dir, seed, name, kind = sys.argv[1:]
    faulthandler.register(signal.SIGUSR1)
    logging.disable()
    settings = settings_of(seed, name)
    client = Client(**settings)
    Producer(Path(runtime_dir).parent / "marks", seed, name, kind, client).live()


if __name__ == "__main__":
    main()
