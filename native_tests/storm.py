"""A storm that kills and stops real producers, flushers, senders and Redis at random, in front of a bad data plane.

The storm runs on several pipes at once, each in another mode. At its end it compares what the producers sent with what
the data plane and the failed sets have.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from native_tests import storm_result
from native_tests.processes import Processes, wait_until
from native_tests.storm_helpers import Address, Helpers
from native_tests.storm_processes import StormProcesses, resume
from native_tests.storm_result import Excuses, Name, PlaneLog, StormResult
from native_tests.storm_watch import Watch
from rudderpipe.observe import snapshot
from rudderpipe.observe.failed_store import failed_jobs
from rudderpipe.observe.snapshot import Snapshot
from rudderpipe.queue.failed_jobs import Selection
from rudderpipe.queue.keys import Keys
from rudderpipe.ring import memory
from rudderpipe.settings import Settings
from rudderpipe.testing.redis_server import RedisServer

CALM_S = 120.0
"""Where several senders work, a dead sender's job is stalled after up to a minute. A retry waits for up to 30 s."""
LEASE_MS = 2_000


class Mode(NamedTuple):
    """The mode of one pipe of the storm; pipes with the same ``queue`` share it."""

    name: str
    queue: str | None = None
    senders: int = 0
    is_multi_processor: bool = False
    lanes: int = 1


MODES = {
    "queue": (Mode("queue", "queue", 2),),
    "direct": (Mode("direct"),),
    "multi": (Mode("multi", "multi", 2, is_multi_processor=True),),
    "rings": (Mode("ring-a", "rings", 2), Mode("ring-b", "rings", 0)),
    "lanes": (Mode("lanes", "lanes", 2, lanes=4),),
}
"""One queue with a standby, no queue, several senders, two rings on one queue, and lanes; by the name for the command.
"""


class Pipeline:
    """One pipe with all of its processes."""

    def __init__(self, mode: Mode, home: Path, plane_url: str, redis_url: str, server: RedisServer, seed: int) -> None:
        self.mode = mode
        self.processes = Processes(home / mode.name, Address(plane_url))  # type: ignore[arg-type]  # the code reads only its url
        self.processes.explicit |= {
            "write_key": f"KEY-{mode.name}",
            "lease_ms": LEASE_MS,
            "connect_timeout_s": 1.0,
            "timeout_s": 2.0,
            "max_jobs_per_request": 20,
            "shutdown_timeout_s": 3.0,
        }
        if mode.queue is not None:
            more = {
                "redis": redis_url,
                "queue_name": mode.queue,
                "is_multi_processor": mode.is_multi_processor,
                "lanes": mode.lanes,
            }
            self.processes.explicit |= {**more, "autostart": "flusher"}
        self._server = server
        self.storm_processes = StormProcesses(
            self.processes, random.Random(f"{seed}/{mode.name}"), mode.name, seed, senders=mode.senders
        )
        self.watch = Watch(self.status, mode.name)

    @property
    def settings(self) -> Settings:
        """Return the pipe's settings, with the address of Redis itself and not of the proxy before it."""
        settings = self.processes.settings
        return settings if settings.redis is None else msgspec.structs.replace(settings, redis=self._server.url)

    def status(self) -> Snapshot:
        """Return what ``rudderpipe status`` reports."""
        return snapshot.take(self.settings)

    def left_behind(self) -> list[str]:
        """Name what an ended pipe left behind.

        Logs, dead letters and the files of a killed start may stay. Segments and other files may not.
        """
        files = [path.name for path in self.storm_processes.runtime_dir.iterdir()]
        left = [name for name in files if ".log" not in name and not name.endswith((".failed", ".start"))]
        left += [name for name in memory.names() if self.settings.pipe_name in name]
        return [f"left behind: {name}" for name in left]

    def failed(self, result: StormResult) -> set[Name]:
        """Return the events in the failed set, or among the dead letters."""
        with failed_jobs(self.settings) as found:
            return set(storm_result.failed_events(found.find(Selection()), result))


class Storm:
    """A storm: call ``blow`` for as long as wanted, then ``calm`` once for the result, and ``end`` in any case."""

    def __init__(
        self,
        directory: Path,
        server: RedisServer,
        seed: int,
        *,
        modes: tuple[str, ...] = tuple(MODES),
        producers: int = 1,
        pause_s: float = 0.4,
        faults_every_s: float = 3.0,
        hold_s: float = 30.0,
    ) -> None:
        self._home = directory / "storm"
        self._helpers = Helpers(self._home)
        self._server = server
        self._producers = producers
        self._pause_s = pause_s
        self._chance = random.Random(seed)
        self._redis_is_well = True
        self._own_pipes: list[Pipeline] = []
        self.redis_deaths: Counter[str] = Counter()
        plane = self._helpers.start("plane", str(seed), str(faults_every_s))
        proxy = self._helpers.start("proxy", str(server.socket), str(seed), str(hold_s))
        for mode in [mode for name in modes for mode in MODES[name]]:
            home = directory / "pipes"
            self._own_pipes.append(
                Pipeline(mode, home, f"http://127.0.0.1:{plane}", f"redis://127.0.0.1:{proxy}", server, seed)
            )
        self._acts: dict[Callable[[StormProcesses], None], float] = {
            self._kill_producer: 30,
            self._stop_producer: 16,
            self._kill_flusher: 16,
            self._stop_flusher: 10,
            self._terminate_flusher: 4,
            self._kill_sender: 30,
            self._stop_sender: 12,
            self._terminate_sender: 4,
            self._kill_both: 5,
            self._kill_all_producers: 2,
            self._kill_redis: 10,
            self._stop_redis: 6,
            self._stop_redis_and_kill_flusher: 6,
        }

    # What the storm has done so far.

    @property
    def groups(self) -> list[StormProcesses]:
        """Return the processes of each pipe."""
        return [pipe.storm_processes for pipe in self._own_pipes]

    @property
    def deaths(self) -> Counter[str]:
        """Count the processes that died of our SIGKILL, by kind."""
        return sum((storm_processes.deaths for storm_processes in self.groups), Counter(self.redis_deaths))

    @property
    def acts(self) -> Counter[str]:
        """Count everything else that was done to processes."""
        proxy = self._home / "proxy.json"
        acts = Counter(msgspec.json.decode(proxy.read_bytes(), type=dict[str, int]) if proxy.exists() else {})
        return sum((storm_processes.acts for storm_processes in self.groups), acts)

    @property
    def statuses(self) -> Counter[str]:
        """Count what ``status`` reported."""
        return sum((pipe.watch.statuses for pipe in self._own_pipes), Counter[str]())

    @property
    def trouble(self) -> list[str]:
        """Return what the watches found to be wrong."""
        return [trouble for pipe in self._own_pipes for trouble in pipe.watch.trouble]

    # The storm and its end.

    def blow(self, seconds: float) -> None:
        """Kill and stop processes, and start missing ones.

        Return early when a watch has seen something wrong.
        """
        end_s = time.monotonic() + seconds
        pause = time.sleep
        while time.monotonic() < end_s and not self.trouble:
            for storm_processes in self.groups:
                storm_processes.do_what_is_due()
                storm_processes.fill(self._producers)
            (act,) = self._chance.choices(list(self._acts), list(self._acts.values()))
            act(self._chance.choice(self.groups))
            pause(min(1.0, self._chance.expovariate(1 / self._pause_s)))

    def calm(self) -> StormResult:
        """Let everything go on and come to an end, and return the result."""
        (self._home / "calm").touch()
        for pipe in self._own_pipes:
            pipe.storm_processes.do_what_is_due(everything=True)
            for process in pipe.processes.own_processes():
                resume(process)
            (pipe.storm_processes.home / "stop").touch()
            pipe.storm_processes.fill(0)
        result = StormResult()
        for pipe in self._own_pipes:
            if not self._all_end(pipe, "producer"):
                result.problems.append(f"hang: producers of {pipe.mode.name} do not end")
        for pipe in self._own_pipes:
            with pipe.processes.client() as client:
                if not client.flush(CALM_S).complete:
                    result.problems.append(f"the ring of {pipe.mode.name} is not drained in the end: {pipe.status()}")
        for queue in {pipe.mode.queue for pipe in self._own_pipes} - {None}:
            assert queue is not None
            if not self._is_emptied(queue):
                result.problems.append(f"the queue {queue} is not emptied in the end")
        for pipe in self._own_pipes:
            pipe.watch.end()
            if not self._all_end(pipe, "flusher"):
                result.problems.append(f"hang: flushers of {pipe.mode.name} do not end")
            pipe.storm_processes.end_senders()
            result.problems += pipe.left_behind()
        self._judge(result)
        return result

    def _all_end(self, pipe: Pipeline, kind: str) -> bool:
        try:
            wait_until(lambda: not pipe.storm_processes.of(kind), CALM_S)
        except AssertionError:
            for process in pipe.storm_processes.of(kind):
                if kind == "producer":
                    process.send_signal(signal.SIGUSR1)  # it prints its stacks, which are then among the errors
                pipe.storm_processes.kill(process, "one that hangs")
            return False
        return True

    def _is_emptied(self, queue: str) -> bool:
        """Wait until the queue is empty, for as long as its jobs grow fewer from time to time."""
        keys, client = Keys("rudder", queue), self._server.text_client()

        def jobs() -> int:
            return int(client.llen(keys.wait) + client.llen(keys.active) + client.zcard(keys.delayed))

        left = jobs()
        while left:
            try:
                wait_until(lambda before=left: jobs() < before, CALM_S)  # type: ignore[misc]  # mypy knows no type for the default
            except AssertionError:
                return False
            left = jobs()
        return True

    def _judge(self, result: StormResult) -> None:
        plane = PlaneLog(self._home / "plane.log")
        result.kinds = plane.kinds
        attempted: set[Name] = set()
        for group in {pipe.mode.queue or pipe.mode.name: pipe for pipe in self._own_pipes}:
            pipes = [pipe for pipe in self._own_pipes if (pipe.mode.queue or pipe.mode.name) == group]
            failed = pipes[0].failed(result)
            deliverer = "sender" if pipes[0].mode.queue else "flusher"
            interruptions = [
                each for pipe in pipes for each in pipe.storm_processes.interruptions if each.what == deliverer
            ]
            logs = [text for pipe in pipes for text in pipe.storm_processes.logs()]
            excuses = Excuses(interruptions, logs)
            ours: set[Name] = set()
            for pipe in pipes:
                in_order = not pipe.mode.is_multi_processor
                killed = pipe.storm_processes.killed
                ours |= storm_result.judge(
                    pipe.storm_processes.home, plane, failed, excuses, killed, result, in_order=in_order
                )
                result.problems += pipe.storm_processes.wrong()
            result.add(f"failed, but of no producer, in {group}", sorted(failed - ours))
            result.add(f"alarms without a reason in {group}", list(storm_result.alarms(logs)))
            self._judge_account(pipes[0], ours & (plane.taken.keys() | failed), result)
            attempted |= ours
        result.add("taken, but of no producer", sorted(plane.taken.keys() - attempted))
        result.problems += self.trouble
        result.problems += self._helpers.errors()

    def _judge_account(self, pipe: Pipeline, there: set[Name], result: StormResult) -> None:
        """Check that the queue's account has each event exactly once."""
        if pipe.mode.queue is None:
            return
        events = pipe.status().events
        counted = events.queued + events.delivered + events.failed + events.removed + events.elsewhere
        if not events.balanced or counted != len(there) or events.removed or events.elsewhere:
            result.problems.append(f"the account of {pipe.mode.queue} has {events} for {len(there)} events")

    def end(self) -> None:
        """Kill what is left."""
        for pipe in self._own_pipes:
            pipe.watch.end()
            pipe.processes.end()
        self._helpers.end()

    # The acts of the storm.

    def _any(self, processes: list[psutil.Process]) -> list[psutil.Process]:
        return self._chance.sample(processes, min(1, len(processes)))

    def _any_flusher(self, storm_processes: StormProcesses) -> list[psutil.Process]:
        """Choose the flusher that has the ring.

        One time in twenty, choose any flusher. It may just be starting, and after its death the next start takes 10 s.
        """
        flushers = storm_processes.of("flusher")
        pids = {pipe.watch.flusher_pid for pipe in self._own_pipes}
        serving = [one for one in flushers if one.pid in pids]
        return self._any(flushers if self._chance.random() < 0.05 else serving)

    def _kill_producer(self, storm_processes: StormProcesses) -> None:
        for process in self._any(storm_processes.of("producer")):
            storm_processes.kill(process, "producer")

    def _stop_producer(self, storm_processes: StormProcesses) -> None:
        for process in self._any(storm_processes.of("producer")):
            storm_processes.stop(process, "producer")

    def _kill_flusher(self, storm_processes: StormProcesses) -> None:
        for process in self._any_flusher(storm_processes):
            storm_processes.kill(process, "flusher")

    def _stop_flusher(self, storm_processes: StormProcesses) -> None:
        for process in self._any_flusher(storm_processes):
            storm_processes.stop(process, "flusher")

    def _terminate_flusher(self, storm_processes: StormProcesses) -> None:
        for process in self._any_flusher(storm_processes):
            storm_processes.terminate(process, "flusher")

    def _kill_sender(self, storm_processes: StormProcesses) -> None:
        for process in self._any(storm_processes.of("sender")):
            storm_processes.kill(process, "sender")

    def _stop_sender(self, storm_processes: StormProcesses) -> None:
        """Stop a sender for up to twice its lease."""
        for process in self._any(storm_processes.of("sender")):
            storm_processes.stop(process, "sender", LEASE_MS / 500)

    def _terminate_sender(self, storm_processes: StormProcesses) -> None:
        for process in self._any(storm_processes.of("sender")):
            storm_processes.terminate(process, "sender")

    def _kill_both(self, storm_processes: StormProcesses) -> None:
        self._kill_producer(storm_processes)
        self._kill_flusher(storm_processes)

    def _kill_all_producers(self, storm_processes: StormProcesses) -> None:
        """Kill all producers, so that the ring may end while there are none."""
        for process in storm_processes.of("producer"):
            storm_processes.kill(process, "producer")
        storm_processes.acts["all producers killed at once"] += 1

    def _kill_redis(self, storm_processes: StormProcesses) -> None:
        process = self._server.process
        if self._redis_is_well and process is not None:
            self._redis_is_well = False
            self._server.kill()
            self.redis_deaths["redis"] += process.returncode == -signal.SIGKILL
            storm_processes.later(1.5, self._start_redis)

    def _start_redis(self) -> None:
        self._server.start()
        self._redis_is_well = True

    def _stop_redis(self, storm_processes: StormProcesses) -> None:
        """Stop Redis, so that the answer to a call under way comes late or never."""
        process = self._server.process
        if self._redis_is_well and process is not None:
            self._redis_is_well = False
            process.send_signal(signal.SIGSTOP)
            storm_processes.acts["redis stopped"] += 1
            storm_processes.later(1.0, self._resume_redis)

    def _resume_redis(self) -> None:
        assert self._server.process is not None
        self._server.process.send_signal(signal.SIGCONT)
        self._redis_is_well = True

    def _stop_redis_and_kill_flusher(self, storm_processes: StormProcesses) -> None:
        """Stop Redis and kill a flusher, so that Redis executes the flusher's last call after its death."""
        self._stop_redis(storm_processes)
        self._kill_flusher(storm_processes)
