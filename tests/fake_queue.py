"""A queue in memory that keeps the promises of the one in Redis. ``queue_contract`` runs over both."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy, deepcopy
from functools import wraps
from typing import Any

from rudderpipe.errors import AnotherDataPlane, JobUnreadable, LeaseLost, QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue import job as jobs
from rudderpipe.queue.active_job import ActiveJob, QueueCounts, Recovered, active_jobs, half
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.queue import LOCK_MS, SWEEP_MS, NewJob, Wait, Whose

_LANE = re.compile(r'"lane":"(\d+/\d+)"')
OWN = ("clock", "away", "follows", "_replica")
"""What belongs to a server, and is not replicated."""
STALLED = "job stalled more than allowable limit"


class FakeStore:
    """What Redis would hold. Several queues may share it, each with its own token."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.away = False
        """True makes every call of every queue fail."""
        self.last_id = 0
        self.jobs: dict[str, dict[str, str]] = {}
        self.no_hashes: set[str] = set()
        """The ids whose key has another type."""
        self.line: list[str] = []
        """The ids of waiting jobs, the next one first. A paused queue uses this list too."""
        self.paused = False
        self.active: list[str] = []
        """The ids of active jobs, the oldest one first."""
        self.delayed: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.completed: dict[str, int] = {}
        self.delivered: list[str] = []
        """The ids of all completed jobs, whether they are kept or not."""
        self.suspects: set[str] = set()
        self.account: Counter[str] = Counter()
        self.plane = ""
        """The data plane to which the jobs belong."""
        self.route = ""
        self.seal = ""
        """The generation and the last job's number from the moment when no flusher may add any more."""
        self.opened = False
        self.members: dict[str, tuple[int, int, int, bytes]] = {}
        """Of each manager of senders: until when and since when it is a member, its lease, and its profile."""
        self.rings: dict[int, Counter[str]] = {}
        self.added: Counter[int] = Counter()
        """The events of each ring that the account has counted."""
        self.fenced_ms: dict[int, int] = {}
        """When a flusher last fenced each ring, in milliseconds since 1970."""
        self.failures: dict[int, dict[str, str]] = {}
        """The fields of a ring's account that say why its events failed last."""
        self.counted: dict[str, tuple[int, int]] = {}
        self._locks: dict[str, tuple[str, int]] = {}
        self._swept_until_ms = 0
        self._lease = ("", 0)
        self._last_lease = ""
        self.follows = False
        """True while a replica gets every write at once."""
        self._replica: dict[str, Any] = {}
        """The data that the replica has."""

    def replicate(self) -> None:
        """Give the replica all data."""
        self._replica = {name: deepcopy(value) for name, value in vars(self).items() if name not in OWN}

    def fail_over(self) -> None:
        """Let the replica become the master. What it lacks is forgotten."""
        vars(self).update(deepcopy(self._replica))

    def leaseholder(self) -> str:
        """Return the lease that has not lapsed, or an empty text."""
        value, until_ms = self._lease
        return value if until_ms > self.clock.time_ms() else ""

    def take_lease(self, mine: str, fresh: str, lease_ms: int, dead: str, above: int) -> list[Any]:
        """Do what the script of that name does."""
        held = self.leaseholder()
        known, _, holder = self._last_lease.partition(" ")
        ours = holder in (mine, fresh)
        if held:
            self.hold_lease(held, min(self._lease[1] - self.clock.time_ms(), 600_000))
        if held and held != dead and held.partition(" ")[2] not in (mine, fresh):
            return [0, held.encode(), self._lease[1] - self.clock.time_ms(), 0]
        number = int(known or 0)
        if not ours or number <= above:
            self._last_lease = f"{max(number, above) + 1} {mine if holder == mine else fresh}"
        self.hold_lease(self._last_lease, lease_ms)
        return [1, self._last_lease.encode(), lease_ms, int(holder == mine)]

    def renew_member(self, name: str, profile: bytes, lease_ms: int) -> list[Any]:
        """Do what the script of that name does."""
        now_ms = self.clock.time_ms()
        self.members = {
            name: (min(until_ms, now_ms + its_lease_ms), since_ms, its_lease_ms, its_profile)
            for name, (until_ms, since_ms, its_lease_ms, its_profile) in self.members.items()
            if until_ms > now_ms
        }
        _, since_ms, _, _ = self.members.pop(name, (0, now_ms, 0, b""))
        if lease_ms:
            self.members[name] = (now_ms + lease_ms, min(since_ms, now_ms), lease_ms, profile)
        listed = [(*each[1:3], name.encode(), each[3]) for name, each in self.members.items()]
        return [now_ms, [b"%d %d %b %b" % each for each in listed]]

    def hold_lease(self, value: str, lease_ms: int) -> None:
        """Store the lease, with its lifetime from now on."""
        self._lease = (value, self.clock.time_ms() + lease_ms)

    def put(self, name: str, fields: dict[str, str] | None) -> None:
        """Append a foreign writer's job to the line, or only its id if there are no fields."""
        if fields is not None:
            self.jobs[name] = dict(fields)
        self.line.append(name)

    def holder(self, name: str) -> str | None:
        """Return the token in the job's lock, or None if the lock has lapsed."""
        token, until_ms = self._locks.get(name, (None, 0))
        return token if until_ms > self.clock.time_ms() else None

    def lock(self, name: str, token: str) -> None:
        """Lock the job for ``LOCK_MS`` from now on."""
        self._locks[name] = (token, LOCK_MS + self.clock.time_ms())

    def unlock(self, name: str) -> None:
        """Delete the job's lock, whichever token it holds."""
        self._locks.pop(name, None)

    def is_own(self, name: str, token: str) -> bool:
        """Return True if the lock is this sender's, or if it lapsed and the job is still active."""
        holder = self.holder(name)
        return holder == token if holder else name in self.active

    def leave_active(self, name: str, token: str) -> bool:
        """Remove the job from the active ones and unlock it.

        Return False if another sender has it or it is not active.
        """
        if self.holder(name) not in (None, token) or name not in self.active:
            return False
        self.active.remove(name)
        self.unlock(name)
        self.suspects.discard(name)
        return True

    def delete(self, name: str) -> None:
        """Delete the job's hash, or the key of another type."""
        self.jobs.pop(name, None)
        self.no_hashes.discard(name)

    def move_events(self, epoch: int, from_: str, to: str, events: int) -> None:
        """Move events in the account of all rings, and in that of the ring while it is kept."""
        for account in (self.account, self.rings.get(epoch)):
            if account is not None:
                account[from_] -= events
                account[to] += events

    def forget_failure(self, name: str, to: str) -> int:
        """Move the events of a job that is no longer failed, if they were counted as failed."""
        if name not in self.counted:
            return 0
        epoch, events = self.counted.pop(name)
        self.move_events(epoch, "failed", to, events)
        return events

    def sealed_id(self) -> int:
        """Return the number in the seal; 0 without one."""
        return int(self.seal.partition(" ")[2] or 0)

    def remains(self) -> list[int]:
        """Do what the script ``find_remains`` does."""
        ids = [*self.line, *self.active, *self.delayed]
        return [
            int(bool(self.seal)),
            int(self.opened),
            int(any(name.isdigit() and int(name) <= self.sealed_id() for name in ids)),
        ]

    def sweep_begins(self, every_ms: int) -> bool:
        """Return False while the last sweep is younger than the interval."""
        now_ms = self.clock.time_ms()
        if now_ms < self._swept_until_ms:
            return False
        self._swept_until_ms = now_ms + every_ms
        return True

    def interval_passes(self) -> None:
        """Allow the next sweep at once."""
        self._swept_until_ms = 0


def changes(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a call whose late execution would do harm, so that its answer can be lost and it can be held up."""

    @wraps(method)
    def called(self: FakeQueue, *arguments: Any, **named: Any) -> Any:
        name = method.__name__
        if name in self.holds:
            self.holds.remove(name)
            then = copy(self)  # keeps the present fencing token and token
            self._late.append(lambda: method(then, *arguments, **named))
            self.unsure = True
            raise QueueUnavailable("here", "no answer in time")
        try:
            result = method(self, *arguments, **named)
        except QueueUnavailable as error:
            self.unsure = self.unsure or not error.answered
            raise
        if name in self.loses:
            self.loses.remove(name)
            self.unsure = True
            raise QueueUnavailable("here", "no answer in time")
        return result

    return called


class FakeQueue:
    """A queue object of one sender or flusher over a store. ``away`` makes each of its calls fail."""

    def __init__(
        self, store: FakeStore, keep_completed: int = 0, lease_ms: int = 10_000, data_plane_id: str = ""
    ) -> None:
        self.store = store
        self.clock = store.clock
        self.token = str(uuid.uuid4())
        self.away = False
        self._keep_completed = keep_completed
        self._lease_ms = lease_ms
        self.fencing_token = ""
        self.unsure = False
        self.loses: list[str] = []
        """The names of calls that are executed but whose answer is lost, each once."""
        self.holds: list[str] = []
        """The names of calls that are held up, each once, until ``let_go`` executes them."""
        self._late: list[Callable[[], object]] = []
        self.keys = Keys("rudder", "rudderEventsQueue")
        self.plane = data_plane_id
        self.place, self.name = "here", "rudderEventsQueue"

    def check_owner(self, *, is_empty: bool | None = None) -> None:
        self.ping()
        store = self.store
        if is_empty is None:
            is_empty = not (store.line or store.active or store.delayed or store.failed)
        if self.plane and store.plane not in ("", self.plane) and not is_empty:
            raise AnotherDataPlane("here", "rudderEventsQueue", store.plane)

    def adopt(self) -> None:
        self.store.plane = self.plane
        self.store.hold_lease("", 0)

    def call(self, name: str, keys: list[str], *arguments: Any) -> Any:
        """Run a script that is called by its name."""
        self.ping()
        if name == "take_lease":
            return self.store.take_lease(*arguments)
        if name == "renew_member":
            return self.store.renew_member(*arguments)
        if name == "set_route":
            if self.store.route == arguments[0]:
                self.store.route = arguments[1]
            return self.store.route.encode()
        if name == "seal_queue":
            self.store.seal = self.store.seal or f"{arguments[0]} {self.store.last_id}"
            return self.store.seal.encode()
        if name == "find_remains":
            return self.store.remains()
        if name == "open_queue":
            self.store.opened = True
            return 1
        assert name == "release_lease"
        ours = self.store.leaseholder() == arguments[0]
        if ours:
            self.store.hold_lease("", 0)
        return int(ours)

    def ask(self, fill: Callable[[Any], object]) -> list[Any]:
        """Return the results of reading the route, or of asking whether keys exist."""
        self.ping()
        asked = _Asked(self)
        fill(asked)
        return asked.results

    def _check(self) -> None:
        self.ping()
        if self.fencing_token and self.store.leaseholder() != self.fencing_token:
            raise LeaseLost

    def put(self, name: str, data: bytes | None = None) -> None:
        """Append a job to the line, with this data or with one event of the user ``name``."""
        text = data.decode() if data else jobs.build(b'{"userId":"%b"}' % name.encode(), "KEY", "t", 7)
        self.store.put(name, {"data": text, "opts": "{}"})

    def reasons(self) -> dict[str, str]:
        """Return the reason of each failed job."""
        return {name: self.store.jobs[name]["failedReason"] for name in self.store.failed}

    def evicting_policy(self) -> str:
        self.ping()
        return ""

    def ping(self) -> None:
        if self.away or self.store.away:
            raise QueueUnavailable("here", "away")

    def let_go(self) -> None:
        """Execute the calls that were held up, as Redis does when it gets them late."""
        late = self._late[:]
        self._late.clear()
        for call in late:
            with suppress(QueueUnavailable, QueueBehind, LeaseLost):
                call()

    @changes
    def split(self, taken: ActiveJob) -> tuple[ActiveJob, ActiveJob] | None:
        self._check()
        store = self.store
        if not store.is_own(taken.id, self.token) or taken.id not in store.jobs or taken.id not in store.active:
            return None
        if store.jobs[taken.id].get("data", "").encode() != taken.data:
            return None
        store.last_id += 1
        name, middle = str(store.last_id), taken.events // 2
        if taken.id.isdigit() and int(taken.id) <= store.sealed_id():
            store.seal = f"{store.seal.partition(' ')[0]} {name}"
        halves = [jobs.with_events(taken.data, 0, middle), jobs.with_events(taken.data, middle, taken.events)]
        store.jobs[name] = {**store.jobs[taken.id], "data": halves[1]}
        store.jobs[taken.id]["data"] = halves[0]
        store.active.insert(store.active.index(taken.id) + 1, name)
        for each in (taken.id, name):
            store.lock(each, self.token)
            store.suspects.discard(each)
        return half(taken, taken.id, halves[0], 0, middle), half(taken, name, halves[1], middle, taken.events)

    def close(self) -> None:
        self.away = True

    def _ring(self, epoch: int, term: int) -> Counter[str]:
        self.ping()
        ring = self.store.rings.get(epoch, Counter())
        if ring["term"] > term:
            raise QueueBehind({0: ring["term"]})
        if ring["ended"]:
            raise QueueUnavailable("here", "RINGENDED", answered=True)
        return ring

    def _replicas(self, wait: Wait | None) -> int:
        if self.store.follows:
            self.store.replicate()
        return int(self.store.follows and wait is not None)

    @changes
    def raise_term(
        self, epoch: int, term: int, freed: Sequence[int], wait: Wait | None = None
    ) -> tuple[dict[int, int], int]:
        ring = self._ring(epoch, term)
        for block in freed:
            ring.pop(str(block), None)
        ring["term"] = term
        self.store.rings[epoch] = ring
        self.store.fenced_ms[epoch] = self.clock.time_ms()
        return {int(name): count for name, count in ring.items() if name.isdigit()}, self._replicas(wait)

    @changes
    def add(
        self,
        epoch: int,
        batches: Sequence[NewJob],
        offsets: dict[int, tuple[int, int]],
        freed: Sequence[int],
        term: int = 0,
        wait: Wait | None = None,
    ) -> int:
        store, ring = self.store, self._ring(epoch, term)
        if store.seal:
            raise QueueSealed("rudderEventsQueue", int(store.seal.partition(" ")[0]))
        if behind := {block: ring[str(block)] for block, (start, _) in offsets.items() if ring[str(block)] > start}:
            raise QueueBehind(behind)
        store.rings[epoch] = ring
        self.check_owner()
        store.plane = self.plane or store.plane
        if store.last_id == 0:
            store.counted.clear()
        now = str(self.clock.time_ms())
        for data, events, *lane in batches:
            store.last_id += 1
            own = f',"lane":"{lane[0]}"' if lane else ""
            store.put(
                str(store.last_id),
                {
                    "name": "__default__",
                    "data": data,
                    "opts": f'{{"attempts":1,"delay":0,"timestamp":{now}{own}}}',
                    "timestamp": now,
                    "delay": "0",
                    "priority": "0",
                },
            )
            ring["queued"] += events
            ring["added"] += events
            store.account["added"] += events
            store.account["queued"] += events
            store.added[epoch] += events
        ring.update({str(block): end - ring[str(block)] for block, (_, end) in offsets.items()})
        for block in freed:
            ring.pop(str(block), None)
        ring["term"] = term
        return self._replicas(wait)

    @changes
    def take(self, max_jobs: int, max_bytes: int) -> list[ActiveJob]:
        self._check()
        store = self.store
        if store.line and not store.paused:
            self.check_owner(is_empty=False)
            store.plane = self.plane or store.plane
        found: list[tuple[bytes, list[bytes] | None]] = []
        size = 0
        while store.line and not store.paused and len(found) < max_jobs:
            name = store.line[0]
            fields = store.jobs.get(name)
            size += len((fields or {}).get("data", "").encode())
            if fields is not None and found and size > max_bytes:
                break
            if name in store.active:
                store.active.remove(name)
            store.active.append(store.line.pop(0))
            store.suspects.discard(name)
            store.lock(name, self.token)
            store.forget_failure(name, "queued")
            flat = (
                None if name in store.no_hashes else [text.encode() for pair in (fields or {}).items() for text in pair]
            )
            found.append((name.encode(), flat))
            if found[-1][1] is not None and (lane := _LANE.search((fields or {}).get("opts", ""))):
                found[-1][1].extend((b"lane", lane[1].encode()))
            if fields is not None:
                fields["processedOn"] = str(self.clock.time_ms())
                fields.setdefault("opts", "{}")
        return active_jobs(found)

    @changes
    def complete(self, done: Sequence[ActiveJob]) -> int:
        self._check()
        store = self.store
        kept = 0
        for taken in done:
            if not store.leave_active(taken.id, self.token):
                continue
            kept += 1
            store.delivered.append(taken.id)
            if self._keep_completed:
                store.completed[taken.id] = self.clock.time_ms()
                fields = store.jobs.setdefault(taken.id, {})
                fields.update(returnvalue="null", finishedOn=str(self.clock.time_ms()))
            else:
                store.delete(taken.id)
            if taken.epoch:
                epoch = int(taken.epoch, 16)
                store.move_events(epoch, "queued", "delivered", taken.events)
                self._forget_ended(epoch)
        if self._keep_completed:
            for name in _by_time(store.completed)[: -self._keep_completed]:
                del store.completed[name]
                store.delete(name)
        return kept

    @changes
    def complete_and_take(
        self, done: Sequence[ActiveJob], max_jobs: int, max_bytes: int
    ) -> tuple[int, list[ActiveJob]]:
        return self.complete(done), self.take(max_jobs, max_bytes)

    @changes
    def fail(self, taken: ActiveJob, reason: str, status: int = 0) -> bool:
        self._check()
        store = self.store
        name, now = taken.id, str(self.clock.time_ms())
        if not store.leave_active(name, self.token):
            return False
        if name in store.no_hashes:
            store.last_id += 1
            name = str(store.last_id)
        store.failed[name] = int(now)
        fields = store.jobs.setdefault(name, {})
        blank = {"name": "__default__", "data": "{}", "opts": "{}", "timestamp": now, "delay": "0", "priority": "0"}
        for field, value in blank.items():
            fields.setdefault(field, value)
        fields.update(failedReason=reason, finishedOn=now, attemptsMade="0")
        if taken.job is not None and taken.job.attempts:
            fields["data"] = jobs.without_attempts(taken.data).decode()
        if taken.epoch:
            epoch = int(taken.epoch, 16)
            store.counted[name] = (epoch, taken.events)
            if epoch in store.rings:
                store.failures[epoch] = {"failedReason": reason, "failedStatus": str(status), "failedAt": now}
            store.move_events(epoch, "queued", "failed", taken.events)
        return True

    @changes
    def retry_later(self, tried: Sequence[ActiveJob]) -> list[ActiveJob]:
        self._check()
        there = [taken for taken in tried if taken.id in self.store.jobs]
        held = self._hold(there)
        for name in held:
            fields = self.store.jobs[name]
            fields["attemptsMade"] = str(int(fields.get("attemptsMade", "0")) + 1)
        return [taken for taken in tried if taken.id in held]

    def renew(self, held: Sequence[ActiveJob]) -> list[ActiveJob]:
        self._check()
        if self.fencing_token:
            self.store.hold_lease(self.fencing_token, self._lease_ms)
        ours = self._hold(held)
        return [taken for taken in held if taken.id in ours]

    def _hold(self, held: Iterable[ActiveJob]) -> list[str]:
        ours = [taken.id for taken in held if self.store.is_own(taken.id, self.token)]
        for name in ours:
            self.store.lock(name, self.token)
            self.store.suspects.discard(name)
        return ours

    @changes
    def put_back(self, held: Sequence[ActiveJob]) -> int:
        self._check()
        ours = [taken.id for taken in held if self.store.leave_active(taken.id, self.token)]
        self.store.line[:0] = ours
        return len(ours)

    @changes
    def recover(self, keep: Sequence[ActiveJob] = (), whose: Whose = "all") -> Recovered:
        self._check()
        store, kept = self.store, {taken.id for taken in keep}
        recovered = [
            name
            for name in store.active
            if name not in kept
            and (whose == "all" or store.holder(name) in ((self.token, None) if whose == "free" else (self.token,)))
        ]
        broken = sum(store.holder(name) not in (None, self.token) for name in recovered)
        store.active = [name for name in store.active if name not in recovered]
        for name in recovered:
            store.unlock(name)
            store.suspects.discard(name)
            if name in store.jobs and whose == "all":
                store.jobs[name]["attemptsMade"] = "0"
        store.line[:0] = recovered
        return Recovered(len(recovered), broken)

    def stranded(self) -> int:
        self.ping()
        return sum(self.store.holder(name) is None for name in self.store.active)

    def sweep(self, every_ms: int = SWEEP_MS) -> int:
        self.ping()
        store = self.store
        if not store.sweep_begins(every_ms):
            return 0
        back = 0
        for name in sorted(store.suspects):
            if name not in store.active or store.holder(name) is not None:
                continue
            store.active.remove(name)
            fields = store.jobs.get(name)
            stalls = int((fields or {}).get("stalledCounter", "0")) + 1
            if fields is not None:
                fields["stalledCounter"] = str(stalls)
            if fields is not None and stalls > 1:
                store.failed[name] = self.clock.time_ms()
                fields.update(failedReason=STALLED, finishedOn=str(self.clock.time_ms()))
                self._count_failure(name, fields)
            else:
                store.line.insert(0, name)
                back += 1
        store.suspects = set(store.active)
        return back

    def _count_failure(self, name: str, fields: dict[str, str]) -> None:
        try:
            job = jobs.read(fields.get("data", "").encode())
        except JobUnreadable:
            return
        if job.epoch:
            self.store.counted[name] = (job.epoch, len(job.events))
            self.store.move_events(job.epoch, "queued", "failed", len(job.events))

    def promote(self) -> int:
        self._check()
        store = self.store
        for name in _by_time(store.delayed):
            if store.delayed[name] > self.clock.time_ms():
                return store.delayed[name]
            del store.delayed[name]
            store.line.append(name)
            if name in store.jobs:
                store.jobs[name]["delay"] = "0"
        return -1

    def counts(self, epoch: int | None = None) -> QueueCounts:
        self.ping()
        store = self.store
        account = store.account if epoch is None else store.rings.get(epoch, Counter())
        if not store.line and not store.active and not store.delayed:
            for counted in (store.account, account):
                unsure = min(counted["queued"], counted.pop("unsure", 0))
                counted["lost"] += unsure
                counted["elsewhere"] += counted["queued"] - unsure
                counted["queued"] = 0
        sizes = [len(jobs_) for jobs_ in (store.line, store.active, store.delayed, store.failed, store.completed)]
        texts = {} if epoch is None else store.failures.get(epoch, {})
        fields: list[tuple[str, object]] = [*account.items(), *texts.items()]
        return QueueCounts.of(sizes, store.paused, [text for pair in fields for text in _bytes(*pair)])

    def size_bytes(self) -> int:
        self.ping()
        return sum(len(fields.get("data", "")) for fields in self.store.jobs.values())

    def restore(self, epoch: int, handed: int, over: int, since: int) -> int:
        before = self.counts(epoch)
        after = before.with_losses(handed, over, since)
        missing = after.events_gone - before.events_gone
        restored = after.events_delivered - before.events_delivered
        lacks = max(0, min(missing, handed - self.store.added[epoch]))
        self.store.added[epoch] += lacks
        for account, lost in ((self.store.account, lacks), (self.store.rings.setdefault(epoch, Counter()), missing)):
            finished = min(restored, lost)
            account.update(delivered=finished, queued=lost - finished, unsure=lost - finished, added=lost)
        return missing

    def end_ring(self, epoch: int) -> bool:
        self.ping()
        self.store.rings.setdefault(epoch, Counter())["ended"] = 1
        return self._forget_ended(epoch)

    def _forget_ended(self, epoch: int) -> bool:
        ring = self.store.rings.get(epoch, Counter())
        over = bool(ring["ended"]) and ring["queued"] <= 0 and ring["failed"] <= 0
        if over:
            self.store.rings[epoch] = Counter(term=ring["term"], added=ring["added"], ended=1)
            self.store.added.pop(epoch, None)
            self.store.failures.pop(epoch, None)
        return over


class _Asked:
    """The commands of a pipeline, which are executed at once."""

    def __init__(self, queue: FakeQueue) -> None:
        self._store, self._keys = queue.store, queue.keys
        self.results: list[Any] = []

    def get(self, key: str) -> None:
        assert key == self._keys.route
        self.results.append(self._store.route.encode() or None)

    def exists(self, *keys: str) -> None:
        store = self._store
        known = {self._keys.route: store.route, self._keys.open: store.opened, self._keys.sealed: store.seal}
        self.results.append(int(bool(known.get(keys[0], store.last_id or store.line or store.account))))


def _by_time(times: dict[str, int]) -> list[str]:
    """Return the names as a sorted set of Redis orders them, by score and then by name."""
    return sorted(times, key=lambda name: (times[name], name))


def _bytes(name: str, number: object) -> tuple[bytes, bytes]:
    return name.encode(), str(number).encode()
