"""A storm over several queues on two hosts, while ``rudderpipe scale`` changes their number again and again.

It kills and stops producers, flushers, managers, senders, the command and nodes of Redis at random, in front of a bad
data plane. At its end it compares what the producers sent with what the data plane took, and with the queues' accounts.
"""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from native_tests import storm_result
from native_tests.processes import Processes, wait_until
from native_tests.redis_nodes import ListOfServers, Nodes, ReplicatedCluster
from native_tests.separate_host import SeparateHost
from native_tests.storm_helpers import Address, Helpers
from native_tests.storm_processes import StormProcesses, resume
from native_tests.storm_result import Excuses, Name, PlaneLog, StormResult
from rudderpipe import settings as settings_module
from rudderpipe.process.clock import Clock
from rudderpipe.queue import route
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.queue.route import Route
from rudderpipe.service.signals import EXIT_OK, EXIT_UNAVAILABLE

FORMS = ("list", "cluster", "cluster without WAIT")
HOSTS = {"first": 2, "second": 1}
"""The number of managers on each host."""
PRODUCERS = 2
"""Producers on each host."""
KINDS = ("plain", "threads", "exec")
"""No forks, because a process that is forked while a flusher starts keeps the next one from starting for a minute."""
COUNTS = (4, 2)
"""The numbers of queues, in turn. The first generation has one."""
LEASE_MS = 1_500
CALM_S = 120.0
PATIENCE_S = 10.0
"""The next change begins after this time, also if the last one has not ended."""
FAULTS = ("429", "429 with Retry-After", "500", "503", "307", "reset before reading", "reset after reading", "drip")
"""What the data plane does. No job fails for good, because a failed job would hold up the change."""
ACTS = {
    ("kill", "producer"): 20,
    ("stop", "producer"): 8,
    ("kill", "flusher"): 16,
    ("stop", "flusher"): 10,
    ("terminate", "flusher"): 4,
    ("kill", "manager"): 6,
    ("stop", "manager"): 3,
    ("terminate", "manager"): 2,
    ("kill", "sender"): 14,
    ("stop", "sender"): 7,
    ("kill", "scale"): 20,
    ("stop", "scale"): 4,
    ("kill", "redis"): 10,
    ("stop", "redis"): 8,
}
FLUSH = """
from rudderpipe import Client
with Client() as client:
    print(client.flush(50).complete)
"""


class Host:
    """A host with its ring, and its processes."""

    def __init__(self, storm: QueuesStorm, name: str, managers: int) -> None:
        self.host = SeparateHost(f"host-{name}")
        self.processes = Processes(storm.home / name, Address(storm.plane_url))  # type: ignore[arg-type]  # the code reads only its url
        self.processes.within = self.host.within
        self.processes.explicit |= storm.settings
        chance = random.Random(f"{storm.seed}/{name}")
        self.own = StormProcesses(
            self.processes, chance, name, storm.seed, senders=managers, sender_options=("--all",), kinds=KINDS
        )

    def of(self, kind: str) -> list[psutil.Process]:
        """Return the living processes of one kind, ``manager`` and ``scale`` among them."""
        if kind in ("manager", "sender"):
            return [one for one in self.own.of("sender") if ("--all" in _command(one)) == (kind == "manager")]
        if kind == "scale":
            return [one for one in self.own.of("producer") if "scale" in _command(one)]
        return [
            one for one in self.own.of(kind) if "native_tests.storm_producer" in _command(one) or kind != "producer"
        ]


def _read_account(key: str, pipe: Any) -> None:
    pipe.hgetall(key)


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


class QueuesStorm:
    """A storm: call ``blow`` for as long as wanted, then ``calm`` once for the result, and ``end`` in any case."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        form: str,
        *,
        pause_s: float = 0.4,
        faults_every_s: float = 3.0,
        hold_s: float = 10.0,
    ) -> None:
        self.home = directory / "hosts"
        self.seed = seed
        self.trouble: list[str] = []
        self._pause_s = pause_s
        self._chance = random.Random(seed)
        self._plane = Helpers(directory / "storm")
        self.plane_url = f"http://127.0.0.1:{self._plane.start('plane', f'{seed}', f'{faults_every_s}', *FAULTS)}"
        self._nodes: Nodes
        if form == "list":
            self._nodes = ListOfServers(directory, seed, hold_s)
        else:
            self._nodes = ReplicatedCluster(directory, replicas=int(form == "cluster"))
        self.settings = {
            "write_key": "KEY",
            "pipe": "storm",
            "redis": self._nodes.url,
            "redis_replicas": self._nodes.replicas,
            "lease_ms": LEASE_MS,
            "autostart": "flusher",
            "connect_timeout_s": 1.0,
            "timeout_s": 2.0,
            "max_jobs_per_request": 20,
            "shutdown_timeout_s": 3.0,
            "max_attempts": 1000,
        }
        self.hosts = [Host(self, name, managers) for name, managers in HOSTS.items()]
        self._counts = itertools.cycle(COUNTS)
        self._scale: subprocess.Popen[bytes] | None = None
        self._scale_to = 1
        self._scaled_s = time.monotonic()
        self._turn = self._chance.sample(list(ACTS), len(ACTS))
        """Each act once, in a random order, before any comes again."""
        self.statuses: Counter[str] = Counter()
        """Changes of the number of queues that were begun, those that ended before the next one, and generations."""

    # What the storm has done so far.

    @property
    def deaths(self) -> Counter[str]:
        """Count the processes that died of our SIGKILL, by kind."""
        return sum((host.own.deaths for host in self.hosts), Counter(self._nodes.deaths))

    @property
    def acts(self) -> Counter[str]:
        """Count everything else that was done."""
        return sum((host.own.acts for host in self.hosts), self._nodes.acts)

    # The storm and its end.

    def blow(self, seconds: float) -> None:
        """Kill and stop processes, start missing ones, and go on with the change of the number of queues."""
        end_s = time.monotonic() + seconds
        pause = time.sleep
        while time.monotonic() < end_s and not self.trouble:
            for host in self.hosts:
                host.own.do_what_is_due()
                host.own.fill(PRODUCERS)
            self._go_on_with_the_change()
            chosen = self._turn or self._chance.choices(list(ACTS), list(ACTS.values()))
            self._act(*chosen.pop())
            pause(min(1.0, self._chance.expovariate(1 / self._pause_s)))

    def _act(self, what: str, kind: str) -> None:
        host = self._chance.choice(self.hosts)
        if kind == "redis":
            act = self._nodes.kill if what == "kill" else self._nodes.stop
            act(self._chance, self.hosts[0].own.later)
            return
        for process in self._chance.sample(found := host.of(kind), min(1, len(found))):
            if what == "kill":
                host.own.kill(process, kind)
            elif what == "stop":
                host.own.stop(process, kind, 2 * LEASE_MS / 1000 if kind in ("sender", "manager") else 1.0)
            else:
                host.own.terminate(process, kind)

    def _go_on_with_the_change(self) -> None:
        """Run the command again if it was killed or gave up, and begin the next change in time."""
        if self._scale is not None:
            code = self._scale.poll()
            if code is None:
                return
            if code not in (EXIT_OK, EXIT_UNAVAILABLE, -signal.SIGKILL, 130):
                self.trouble.append(f"scale ended with {code}")
            self.statuses["changes ended"] += code == EXIT_OK
            self._scale = None
            if code != EXIT_OK and time.monotonic() - self._scaled_s < PATIENCE_S:
                self._scale = self._start_scale("10")
        elif time.monotonic() - self._scaled_s > (3.0 if self._scale_to == 1 else PATIENCE_S):
            self._begin_a_change("10")

    def _begin_a_change(self, timeout_s: str) -> subprocess.Popen[bytes]:
        self._scale_to, self._scaled_s = next(self._counts), time.monotonic()
        self.statuses["changes begun"] += 1
        self._scale = self._start_scale(timeout_s)
        return self._scale

    def _start_scale(self, timeout_s: str) -> subprocess.Popen[bytes]:
        """Start the command on the first host."""
        host = self.hosts[0]
        own = ("--queues", str(self._scale_to), "--timeout", timeout_s, "--runtime-dir", str(host.own.runtime_dir))
        log = (self.home / "scale.log").open("ab")
        with log:
            return host.processes.start("-m", "rudderpipe", "scale", *own, stdout=log, stderr=log)

    def calm(self) -> StormResult:
        """Let everything go on and come to an end, and return the result."""
        result = StormResult()
        (self._plane.home / "calm").touch()
        for host in self.hosts:
            host.own.do_what_is_due(everything=True)
        self._nodes.calm()
        for host in self.hosts:
            for process in host.processes.own_processes():
                resume(process)
            (host.own.home / "stop").touch()
            host.own.fill(0)
        for host in self.hosts:
            self._await(host, "producer", result)
        for host in self.hosts:
            done = host.processes.run("-c", FLUSH)
            if done.stdout != b"True\n":
                result.problems.append(f"the ring of {host.own.name} is not drained in the end: {done}")
        self._end_the_change(result)
        with suppress(AssertionError):  # the judge finds what is left
            wait_until(lambda: not self._accounts()[1]["jobs"], CALM_S)
        for host in self.hosts:
            self._await(host, "flusher", result)
            host.own.end_senders()
        self._judge(result)
        return result

    def _await(self, host: Host, kind: str, result: StormResult) -> None:
        try:
            wait_until(lambda: not host.of(kind), CALM_S)
        except AssertionError:
            result.problems.append(f"hang: a {kind} of {host.own.name} does not end")
            for process in host.of(kind):
                host.own.kill(process, "one that hangs")

    def _end_the_change(self, result: StormResult) -> None:
        if self._scale is not None:
            self._scale.kill()
            self._scale.wait()
        while self.statuses["changes begun"] < len(COUNTS):
            self._begin_a_change("0").wait()
        self._scale = self._start_scale(f"{CALM_S:.0f}")
        if (code := self._scale.wait()) != EXIT_OK:
            said = (self.home / "scale.log").read_text()[-500:]
            result.problems.append(f"the change of the number of queues ends with {code}: {said}")

    def _judge(self, result: StormResult) -> None:
        plane = PlaneLog(self._plane.home / "plane.log")
        result.kinds = plane.kinds
        logs = [text for host in self.hosts for text in host.own.logs()]
        interruptions = [
            each for host in self.hosts for each in host.own.interruptions if each.what in ("sender", "manager")
        ]
        excuses = Excuses([*interruptions, *self._nodes.interruptions], logs)
        ours: set[Name] = set()
        for host in self.hosts:
            killed = host.own.killed
            ours |= storm_result.judge(host.own.home, plane, set(), excuses, killed, result, in_order=True)
            result.problems += host.own.wrong()
        result.add("taken, but of no producer", sorted(plane.taken.keys() - ours))
        result.add("alarms without a reason", list(storm_result.alarms(logs)))
        self._judge_accounts(len(plane.taken), result)
        result.problems += self.trouble
        result.problems += [*self._plane.errors(), *self._nodes.errors()]

    def _accounts(self) -> tuple[Route, Counter[str]]:
        """Return the route, and the sums over the queues of all generations: events by state, and jobs."""
        explicit = {**self.hosts[0].processes.explicit, "redis": self._nodes.own_url}
        settings = settings_module.load(explicit, environment={})
        total: Counter[str] = Counter()
        with closing(QueueSet(settings, Clock())) as queues:
            known = route.read(queues.home, settings)
            for place in dict.fromkeys(place for each in known.generations for place in each.queues):
                queue = queues.queue(place)
                # Order: the counts first, because counting decides whether a forgotten event is lost.
                counts = queue.counts()
                (account,) = queue.ask(partial(_read_account, queue.keys.account))
                total += Counter({name.decode(): int(count) for name, count in account.items()})
                total["jobs"] += counts.waiting + counts.active + counts.delayed + counts.failed
        return known, total

    def _judge_accounts(self, there: int, result: StormResult) -> None:
        """Check that the queues of all generations have counted each event exactly once, and hold none any more."""
        known, total = self._accounts()
        numbers = [len(each.queues) for each in known.generations]
        self.statuses["generations"] = len(numbers)
        if [each.number for each in known.living] != [known.current.number] or numbers[-1] != self._scale_to:
            result.problems.append(f"the route is wrong in the end: {known}")
        if not self._nodes.replicas and self._nodes.interruptions and result.lost <= total["lost"]:
            # Redis has forgotten these events. The flushers have noticed, and counted them.
            result.problems = [problem for problem in result.problems if not problem.startswith("lost, ")]
            there += total["lost"]
        if (total["added"], total["delivered"] + total["lost"], total["jobs"]) != (there, there, 0):
            result.problems.append(f"the accounts have {dict(total)} for {there} events")

    def end(self) -> None:
        """Kill what is left."""
        for host in self.hosts:
            host.processes.end()
            host.host.end()
        self._nodes.end()
        self._plane.end()
