"""A storm: real producers, flusher and Redis, which are killed and stopped at random while events are numbered."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from native_tests import storm_verdict
from native_tests.storm_crowd import Crowd, is_flusher, resume
from native_tests.storm_verdict import Verdict
from native_tests.storm_watch import Watch
from native_tests.world import World, wait_until
from rudderpipe.cli.redis_server import RedisServer
from rudderpipe.ring import segment

CALM_S = 30.0


class Storm:
    """One world, one seed. ``blow`` as long as you like, then ``calm`` once, which tells what became of the events."""

    def __init__(self, world: World, server: RedisServer, seed: int, *, producers: int, pause_s: float) -> None:
        world.explicit.update(redis=server.url, autostart="flusher")
        self._world = world
        self._server = server
        self._producers = producers
        self._pause_s = pause_s
        self._chance = random.Random(seed)
        self._redis_is_well = True
        self.crowd = Crowd(world, self._chance, seed)
        self.watch = Watch(world)
        self._weights: dict[Callable[[], None], float] = {
            self._kill_producer: 30,
            self._stop_producer: 20,
            self._kill_flusher: 14,
            self._stop_flusher: 10,
            self._terminate_flusher: 4,
            self._kill_both: 5,
            self._kill_all_producers: 2,
            self._kill_redis: 4,
            self._stop_redis: 6,
            self._stop_redis_and_kill_flusher: 6,
        }

    def blow(self, seconds: float) -> None:
        """Kill and stop, start what is missing; returns early when the watch has seen something wrong."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not self.watch.trouble:
            self.crowd.do_what_is_due()
            self.crowd.fill(self._producers)
            (act,) = self._chance.choices(list(self._weights), list(self._weights.values()))
            act()
            self.watch.pause(min(1.0, self._chance.expovariate(1 / self._pause_s)))

    def calm(self) -> Verdict:
        """Let everybody go on and come to an end; then look what is in Redis, and what is left behind."""
        self.crowd.do_what_is_due(everything=True)
        for process in self._world.own_processes():
            resume(process)
        (self.crowd.home / "stop").touch()
        problems = [] if self._all_end(self.crowd.producers) else ["hang: producers do not end"]
        with self._world.client() as client:
            if not client.flush(CALM_S):
                problems.append("the ring is not drained in the end")
            problems += self.watch.last_word()
        self.watch.end()
        if not self._all_end(self._world.own_processes):
            problems.append("hang: flushers do not end")
        verdict = storm_verdict.reach(self.crowd.home, self._server.text_client(), self.crowd.killed)
        verdict.problems += problems + self.watch.trouble + self.crowd.wrong() + self._left_behind()
        return verdict

    def _all_end(self, processes: Callable[[], list[psutil.Process]]) -> bool:
        try:
            wait_until(lambda: not processes(), CALM_S)
        except AssertionError:
            for process in processes():
                if not is_flusher(process):
                    process.send_signal(signal.SIGUSR1)  # its stacks are among the errors
                self.crowd.kill(process, "one that hangs")
            return False
        return True

    def _left_behind(self) -> list[str]:
        """Segments, lock files, and what else is beside the logs."""
        pipe = self._world.settings.pipe_name
        files = [path.name for path in Path(self._world.explicit["runtime_dir"]).iterdir()]
        left = [name for name in files if not name.startswith(f"{pipe}.log")]
        left += [name for name in segment.names() if name == segment.segment_name(pipe)]
        return [f"left behind: {name}" for name in left]

    # What may happen.

    def _any(self, processes: list[psutil.Process]) -> list[psutil.Process]:
        return self._chance.sample(processes, min(1, len(processes)))

    def _any_flusher(self) -> list[psutil.Process]:
        """The one that has the ring; now and then one that is about to start, after whose death it takes 10 s."""
        flushers = self.crowd.flushers()
        serving = [one for one in flushers if one.pid == self.watch.flusher_pid]
        return self._any(flushers if self._chance.random() < 0.05 else serving)

    def _kill_producer(self) -> None:
        for process in self._any(self.crowd.producers()):
            self.crowd.kill(process, "producer")

    def _stop_producer(self) -> None:
        for process in self._any(self.crowd.producers()):
            self.crowd.stop(process, "producer")

    def _kill_flusher(self) -> None:
        for process in self._any_flusher():
            self.crowd.kill(process, "flusher")

    def _stop_flusher(self) -> None:
        for process in self._any_flusher():
            self.crowd.stop(process, "flusher")

    def _terminate_flusher(self) -> None:
        for process in self._any_flusher():
            process.terminate()
            self.crowd.acts["flusher asked to end"] += 1

    def _kill_both(self) -> None:
        self._kill_producer()
        self._kill_flusher()

    def _kill_all_producers(self) -> None:
        """And have nobody for a while, in which the ring may end."""
        for process in self.crowd.producers():
            self.crowd.kill(process, "producer")
        self.crowd.acts["all producers killed at once"] += 1
        self.watch.pause(self._chance.uniform(0, 1.5))

    def _kill_redis(self) -> None:
        process = self._server.process
        if self._redis_is_well and process is not None:
            self._redis_is_well = False
            self._server.kill()
            self.crowd.deaths["redis"] += process.returncode == -signal.SIGKILL
            self.crowd.later(1.5, self._start_redis)

    def _start_redis(self) -> None:
        self._server.start()
        self._redis_is_well = True

    def _stop_redis(self) -> None:
        """A call that is under way has its answer late, or never."""
        process = self._server.process
        if self._redis_is_well and process is not None:
            self._redis_is_well = False
            process.send_signal(signal.SIGSTOP)
            self.crowd.acts["redis stopped"] += 1
            self.crowd.later(1.0, self._resume_redis)

    def _resume_redis(self) -> None:
        assert self._server.process is not None
        self._server.process.send_signal(signal.SIGCONT)
        self._redis_is_well = True

    def _stop_redis_and_kill_flusher(self) -> None:
        """Its last call is done after its death."""
        self._stop_redis()
        self.watch.pause(self._chance.uniform(0, 0.2))
        self._kill_flusher()
