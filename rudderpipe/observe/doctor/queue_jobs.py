"""The checks of the queue: its jobs, its sender, its lanes, and other programs that use it."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from rudderpipe.log_text import counted
from rudderpipe.observe import active_lanes, pipe_queues
from rudderpipe.observe.doctor.check import Result, check, fail, ok, warn, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped, counts_of
from rudderpipe.queue import seal
from rudderpipe.queue.queue import Queue

LOOKED_AT = 200
"""How many jobs are looked at."""
COMPLETED = 10_000
OUR_JOBS = b"__default__"
"""Bull's name for a job without one, which our jobs and the Node SDK's have."""


@check(22, "jobs", "redis", "queue")
def jobs(pipe: Examination) -> Result:
    """Check that the queue is not paused, is this data plane's, and has no strange, stranded or forgotten jobs."""
    queue = pipe.queue
    counts = queue.counts()
    found = []
    owner = queue.owner()
    if owner and queue.plane and owner != queue.plane and counts.waiting + counts.active + counts.failed:
        fix = "set another queue_name, or rudderpipe queue --adopt"
        found.append(fail(f"the jobs of the queue are for the data plane {owner}", fix))
    if counts.paused:
        report = fail if counts.waiting + counts.active else warn
        behind = ", and the queues of later generations wait for it" if seal.remains(queue).has_jobs else ""
        found.append(report(f"the queue is paused{behind}", "rudderpipe queue --resume, or the tool that paused it"))
    if counts.failed:
        fix = "rudderpipe failed list shows why; rudderpipe failed retry or delete"
        found.append(warn(f"{counts.failed:,} jobs have failed", fix))
    if counts.completed > max(COMPLETED, pipe.settings.keep_completed):
        said = f"{counts.completed:,} delivered jobs stay in Redis"
        found.append(warn(said, "removeOnComplete in the Node SDK; clean them: queue.clean(0, 'completed')"))
    without, foreign = _strange(queue)
    if without:
        fix = "the sender fails them when it takes them; rudderpipe failed delete"
        found.append(warn(f"{without} of the next jobs have no data", fix))
    if foreign:
        fix = "set another queue_name for rudderpipe, or for the other program"
        found.append(warn(f"{foreign} of the next jobs are another program's", fix))
    stranded = queue.stranded() if counts.active else 0
    if stranded and pipe_queues.lease_state(queue) is None:
        said = f"{stranded:,} jobs are active without a lock and without a sender"
        found.append(warn(said, "start a sender, which puts them first in line again"))
    return worst(found, f"{counts.waiting:,} waiting, {counts.active:,} active, {counts.delayed:,} delayed")


def _strange(queue: Queue) -> tuple[int, int]:
    """Return how many of the next jobs have no hash, and how many have a name that ours never have."""
    keys = queue.keys
    waiting, active = queue.ask(lambda each: [each.lrange(key, -LOOKED_AT, -1) for key in (keys.wait, keys.active)])
    ids = [*waiting, *active]
    names = queue.ask(lambda each: [each.hmget(keys.base.encode() + job, "data", "name") for job in ids]) if ids else []
    without = sum(data is None for data, _ in names)
    return without, sum(data is not None and name != OUR_JOBS for data, name in names)


@check(23, "sender", "redis", "queue")
def sender(pipe: Examination) -> Result:
    """Check that a sender works where jobs wait, and that no other worker takes jobs from the same queue."""
    queue, several = pipe.queue, pipe.settings.is_multi_processor
    counts, lease = queue.counts(), pipe_queues.lease_state(queue)
    start = _START_MANAGER if pipe.is_one_of_several else _START
    found = []
    if lease is not None and lease.is_dead:
        found.append(fail(f"the sender, pid {lease.pid} on {lease.host}, has ended without giving the lease up", start))
    elif not several and lease is None and counts.waiting + counts.active and not counts.paused:
        if pipe.generation and not seal.remains(queue).is_open:
            said = "jobs wait until the queues of earlier generations are drained"
            found.append(warn(said, f"look at these; if they are drained, {start}"))
        else:
            found.append(fail("jobs wait, and no sender has the lease", start))
    others = _other_workers(queue, _token(queue) if lease is not None else b"") if not several else []
    if others:
        fix = "isMultiProcessor for both, or another queue_name for one of them"
        found.append(warn(f"another worker takes jobs of this queue: {', '.join(others)}", fix))
    holder = f"{lease.host}, pid {lease.pid}, lease {lease.number}" if lease is not None else "none, and no job waits"
    return worst(found, "several senders work" if several else holder)


_START = "start one: systemctl start rudderpipe-sender@PIPE, or python -m rudderpipe.sender"
_START_MANAGER = "start a manager of senders: python -m rudderpipe.sender --all"


def _token(queue: Queue) -> bytes:
    """Return the token with which the sender that has the lease locks its jobs."""
    (value,) = queue.ask(lambda each: each.get(queue.keys.lease))
    _, _, holder = (value or b"").partition(b" ")
    return bytes(holder.partition(b".")[0])


def _other_workers(queue: Queue, token: bytes) -> list[str]:
    """Return what shows another worker: locks of active jobs that are not the sender's, and clients of Bull."""
    base = queue.keys.base.encode()
    (active,) = queue.ask(lambda each: each.lrange(queue.keys.active, 0, LOOKED_AT - 1))
    locks = queue.ask(lambda each: [each.get(base + job + b":lock") for job in active]) if active else []
    foreign = sum(lock is not None and lock != token for lock in locks)
    found = [f"{foreign} jobs have its lock"] if foreign and token else []
    (clients,) = queue.ask(lambda each: each.client_list())
    workers = [client for client in clients if _is_bulls(client, queue.name)]
    return found + ([f"{len(workers)} connections of Bull"] if workers else [])


def _is_bulls(client: Any, name: str) -> bool:
    """Return whether a connection is a Bull worker's of this queue, which has the queue's name in base64."""
    return str(client.get("name", "")).startswith(f"bull:{b64encode(name.encode()).decode()}")


@check(29, "lanes", "redis", "queue")
def lanes(pipe: Examination) -> Result:
    """Check that no lane waits for a job without a lane, or for one lane that is tried again."""
    queue = pipe.queue
    found = active_lanes.lane_states(queue)
    if not found:
        raise Skipped("no active job has a lane")
    if any(not each.lane for each in found):
        at_head = not found[0].lane
        said = "all lanes wait for jobs without a lane" if at_head else "jobs without a lane wait for all lanes"
        fix = "it passes by itself; give all processes the same lanes, and Node SDKs another queue_name"
        return warn(said, fix)
    retrying = [each.lane for each in found if each.retrying]
    if retrying:
        said = f"the lanes {', '.join(retrying)} are tried again"
        return warn(said, "look at check 24; the sender's log has the reason")
    return ok(f"{len(found)} lanes at work")


@check(36, "retired queues", "redis")
def retired(pipe: Examination) -> Result:
    """Check that no job is in a queue of before the last changes of the number of queues, where no sender looks."""
    queues = {each.settings.prefix: each for each in pipe.retired}
    if not queues:
        pipe.queue.ping()  # otherwise it is not known
        raise Skipped("no queue is retired")
    read = counts_of(list(queues.values()))
    found = []
    for prefix, counts in read.items():
        left = counts.waiting + counts.active + counts.delayed
        if left or counts.failed:
            place = queues[prefix].settings.redis_place
            said = f"{prefix} at {place} has {counted(left, 'job')} and {counted(counts.failed, 'failed job')}"
            found.append(warn(said, _RETIRED))
    away = f", {len(queues) - len(read)} cannot be read" if len(read) < len(queues) else ""
    return worst(found, f"no jobs in {counted(len(queues), 'retired queue')}{away}")


_RETIRED = (
    "give the Node SDKs that add jobs there the prefix of a queue in use; deliver these jobs with the settings of that "
    "queue (RUDDERPIPE_PREFIX, RUDDERPIPE_QUEUES=1, RUDDERPIPE_REDIS of its server): python -m rudderpipe.sender, and "
    "rudderpipe failed for failed ones"
)
