"""Who takes part in a storm: they are found, killed, stopped and resumed, and each death is proved and counted."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from native_tests.storm_producer import KINDS
from native_tests.world import World, wait_until


def is_over(process: psutil.Process) -> bool:
    """Gone, or a zombie that its parent has not collected."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def is_flusher(process: psutil.Process) -> bool:
    """Also one that is about to start."""
    try:
        return "rudderpipe.flusher" in process.cmdline()
    except psutil.Error:
        return False


def resume(process: psutil.Process) -> None:
    """Let it go on, if it is there."""
    try:
        process.resume()
    except psutil.NoSuchProcess:
        pass


class Crowd:
    """The producers and flushers of one world; ``home`` is where producers leave their marks."""

    def __init__(self, world: World, chance: random.Random, seed: int) -> None:
        self.deaths: Counter[str] = Counter()
        """Who died of our SIGKILL, proved: by its status when it is our child, else by its not being there."""
        self.acts: Counter[str] = Counter()
        self.killed: set[int] = set()
        self._world = world
        self._chance = chance
        self._seed = seed
        self._names = itertools.count()
        self._turns = itertools.count()
        self._own: dict[int, subprocess.Popen[bytes]] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        runtime_dir = Path(world.explicit["runtime_dir"])
        runtime_dir.mkdir(mode=0o700)
        self.home = runtime_dir.parent / "marks"
        self.home.mkdir()

    def producers(self) -> list[psutil.Process]:
        """Those that were forked included."""
        return [one for one in self._world.own_processes() if not is_flusher(one)]

    def flushers(self) -> list[psutil.Process]:
        """More than one while another is about to start."""
        return [one for one in self._world.own_processes() if is_flusher(one)]

    def fill(self, number: int) -> None:
        """Start producers until there are so many, forked ones not counted."""
        for _ in range(number - sum(one.poll() is None for one in self._own.values())):
            runtime_dir, name = self._world.explicit["runtime_dir"], str(next(self._names))
            arguments = (runtime_dir, str(self._seed), name, self._chance.choice(KINDS))
            with (self.home / "errors").open("ab") as errors:
                process = self._world.start("-m", "native_tests.storm_producer", *arguments, stderr=errors)
            self._own[process.pid] = process
            self.acts["producers started"] += 1

    def kill(self, process: psutil.Process, what: str) -> None:
        """SIGKILL, and wait until it has had its effect."""
        own = self._own.get(process.pid)
        try:
            if is_over(process):
                return
            self.killed.add(process.pid)
            process.kill()
        except psutil.NoSuchProcess:
            return
        wait_until(lambda: is_over(process))
        if own is None or own.wait() == -signal.SIGKILL:
            self.deaths[what if own or what != "producer" else "forked producer"] += 1

    def stop(self, process: psutil.Process, what: str) -> None:
        """SIGSTOP, and a while later SIGCONT or SIGKILL."""
        try:
            process.suspend()
        except psutil.NoSuchProcess:
            return
        self.acts[f"{what} stopped"] += 1
        if self._chance.random() < 0.4:
            self.later(1.0, lambda: self.kill(process, what))
        else:
            self.later(1.0, lambda: resume(process))

    def later(self, most_s: float, thing: Callable[[], None]) -> None:
        """Do a thing after a random while."""
        due_s = time.monotonic() + self._chance.uniform(0.01, most_s)
        heapq.heappush(self._agenda, (due_s, next(self._turns), thing))

    def do_what_is_due(self, *, everything: bool = False) -> None:
        """What was put off until now, or all that was put off."""
        while self._agenda and (everything or self._agenda[0][0] <= time.monotonic()):
            heapq.heappop(self._agenda)[2]()

    def wrong(self) -> list[str]:
        """What is wrong with the ways in which producers ended, and with what they and the flushers said."""
        wrong = [
            f"producer {one.pid} ended with {one.wait()}"
            for one in self._own.values()
            if one.wait() not in (0, -signal.SIGKILL)
        ]
        said = (self.home / "errors").read_text() + self._world.log()
        return wrong + [found[:3000] for found in said.split("Traceback")[1:]]
