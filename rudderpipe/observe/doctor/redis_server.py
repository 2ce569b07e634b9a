"""The checks of the Redis server: reachable, of a good version, durable, roomy, and open to this user."""

from __future__ import annotations

import math
import re
import statistics
import time

from rudderpipe.errors import QueueUnavailable
from rudderpipe.observe.doctor.check import Result, check, fail, ok, warn, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped
from rudderpipe.queue.scripts import NAMES, source

OLDEST = (6, 2)
PINGS = 10
SLOW_S = 0.005
CERTIFICATE_DAYS = 14
CLOCK_S = 2.0
SURVIVES_MIN = 30.0
JOB_EVENT_BYTES = 630
"""Memory of an event in Redis, in jobs of 20: measured, for events of 300 bytes."""
NO_EVICTION = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
SAMPLE = {
    "XX": "DEL EXISTS GET HGETALL HLEN INCR LLEN MGET PTTL SMEMBERS TYPE ZCARD",
    "XX 0": "HDEL HEXISTS HGET HMGET INCRBY LPUSH PEXPIRE PEXPIREAT RPUSH SADD SREM SET ZREM ZSCORE",
    "XX 0 1": "HINCRBY HSET HSETNX LRANGE LREM LTRIM ZADD ZRANGE ZRANGEBYSCORE ZREMRANGEBYSCORE",
    "XX XX": "RENAME",
    "XX before 0 1": "LINSERT",
    "XX XX RIGHT RIGHT 1": "BLMOVE",
}
"""The commands that scripts and sender use, by arguments that fit; XX is a key of the queue."""
OTHER_COMMANDS = ("EVALSHA 0 0", "EVAL x 0", "PING", "TIME", "MEMORY USAGE XX", "PUBLISH XX x")
UNKNOWN_NAME = ("not known", "name resolution", "nodename nor servname", "No address associated")
"""What the systems say of a host name that DNS does not know."""
ACL_LINE = "give the user the ACL line of docs/settings.md"


@check(16, "redis", "redis", "server")
def redis(pipe: Examination) -> Result:
    """Check that Redis can be reached, takes user and password, responds fast, and has a certificate for long."""
    try:
        queue = pipe.connected()
    except QueueUnavailable as error:
        return fail(str(error), _mended(error.reason))
    times_s = []
    for _ in range(PINGS):
        began_s = time.perf_counter()
        queue.ping()
        times_s.append(time.perf_counter() - began_s)
    median_s = statistics.median(times_s)
    found = []
    if median_s > SLOW_S:
        said = f"a response takes {median_s * 1000:.1f} ms"
        found.append(warn(said, "use a Redis in the same network; SLOWLOG GET shows slow commands"))
    ends_s = queue.certificate_ends_s()
    if ends_s is not None:
        found += days_left((ends_s - pipe.clock.time_ms() / 1000) / 86_400, "Redis")
    return worst(found, f"{pipe.settings.redis_place} responds in {median_s * 1000:.2f} ms")


def _mended(reason: str) -> str:
    if "password" in reason:
        return "correct user and password in the setting redis"
    if "refused" in reason.lower() or "No such file" in reason:
        return "start Redis, or correct host and port in the setting redis"
    if any(each in reason for each in UNKNOWN_NAME):
        return "correct the host in the setting redis, or the DNS of this host"
    if "DB index" in reason:
        return "correct the number of the database in the setting redis"
    if "MOVED" in reason or "sentinel" in reason:
        return "correct the setting redis; docs/settings.md has the form of each kind of Redis"
    if "certificate" in reason.lower() or "SSL" in reason:
        return "correct ssl_ca_file, or renew the certificate of Redis"
    return (
        "look whether Redis runs there, whether a firewall is between, and whether only one side uses TLS (rediss://)"
    )


def days_left(days: float, whose: str) -> list[Result]:
    """Return a warning if a certificate ends soon, else nothing."""
    if days >= CERTIFICATE_DAYS:
        return []
    said = f"the certificate of {whose} ends in {days:.0f} days"
    return [warn(said, "renew it")]


@check(17, "redis version and role", "redis", "server")
def version_and_role(pipe: Examination) -> Result:
    """Check that Redis is 6.2 or later, or Valkey, that it is the master, and that its clock agrees with ours."""
    queue = pipe.queue
    info = pipe.info
    found = []
    text = str(info.get("redis_version", ""))
    version = tuple(map(int, re.findall(r"\d+", text)[:2]))
    shown = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {text}"
    if version < OLDEST:
        found.append(fail(f"{shown} is too old", "use Redis 6.2 or later, or Valkey"))
    if info.get("role") != "master":
        said = f"this server is a {info.get('role')}, which takes no jobs"
        found.append(fail(said, "point the setting redis at the master, or use redis+sentinel://"))
    ((seconds, micros),) = queue.ask(lambda each: each.time())
    off_s = seconds + micros / 1e6 - pipe.clock.time_ms() / 1000
    if abs(off_s) > CLOCK_S:
        found.append(warn(f"the clock of Redis differs from ours by {off_s:+.1f} s", "synchronize both by NTP"))
    cluster = ", cluster" if pipe.settings.redis_address.cluster_nodes else ""
    return worst(found, f"{shown}, master{cluster}, clock {off_s:+.2f} s")


@check(18, "eviction", "redis", "server")
def eviction(pipe: Examination) -> Result:
    """Check that Redis never evicts jobs to make room."""
    policy = str(pipe.info.get("maxmemory_policy", "unknown"))
    evicted = int(str(pipe.info.get("evicted_keys", 0)))
    if policy != "noeviction":
        return fail(f"maxmemory-policy is {policy}, which may evict queued events", NO_EVICTION)
    if evicted:
        said = f"Redis has evicted {evicted:,} keys since it started"
        return warn(said, f"rudderpipe status shows whether events are lost; {NO_EVICTION}")
    return ok("noeviction")


@check(19, "persistence", "redis", "server")
def persistence(pipe: Examination) -> Result:
    """Check that Redis keeps its data over a restart, that its last save worked, and that enough replicas follow."""
    info = pipe.info
    saves = _saves(pipe)
    found = []
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        found.append(warn("the last save of Redis failed", "look into the log of Redis: disk full, or no memory"))
    if not info.get("aof_enabled"):
        if saves == "":
            said = "Redis keeps nothing over a restart, so that queued events would be lost"
        else:
            said = "Redis saves only from time to time, so that a crash loses the jobs of some minutes"
        found.append(warn(said, "CONFIG SET appendonly yes (appendfsync everysec), and the same in redis.conf"))
    replicas, wanted = int(str(info.get("connected_slaves", 0))), pipe.settings.redis_replicas
    least = info.get("min_slaves_good_slaves")
    if replicas < wanted:
        stays = "no event leaves the ring" if pipe.settings.redis_replicas_strict else "a failover loses events"
        said = f"redis_replicas is {wanted}, and {replicas} replicas are connected, so that {stays}"
        found.append(fail(said, "connect more replicas to Redis, or lower redis_replicas"))
    if replicas and least is None:
        said = f"{replicas} replicas follow, and a write counts without any of them"
        found.append(warn(said, "CONFIG SET min-replicas-to-write 1, so that a master without replicas takes no jobs"))
    return worst(found, f"append-only file, {replicas} replicas")


def _saves(pipe: Examination) -> str | None:
    """Return when Redis saves by itself; empty for never, None when this user may not ask."""
    try:
        (found,) = pipe.queue.ask(lambda each: each.config_get("save"))
    except QueueUnavailable as error:
        if not error.answered:
            raise
        return None
    return str({_text(name): _text(value) for name, value in found.items()}.get("save", ""))


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@check(20, "memory for an outage", "redis", "server")
def memory(pipe: Examination) -> Result:
    """Check how many minutes without the data plane fit into Redis at the present rate."""
    info, queue = pipe.info, pipe.queue
    used, limit = (int(str(info.get(name, 0))) for name in ("used_memory", "maxmemory"))
    machine = int(str(info.get("total_system_memory", 0)))
    bounds = {"maxmemory": limit - used} if limit else {"the memory of its host": machine - used}
    taken = queue.size_bytes()
    budget = pipe.settings.max_queue_bytes
    if budget is not None:
        bounds["max_queue_bytes"] = budget - taken
    which, free = min(bounds.items(), key=lambda each: each[1])
    if free <= 0:
        return warn(f"no memory is left for jobs, by {which}", f"deliver or delete jobs, or raise {which}")
    counts = queue.counts()
    events = counts.events_queued + counts.events_failed
    each_bytes = taken / events if events > 0 and taken else JOB_EVENT_BYTES
    minutes = free / each_bytes / pipe.rate_per_s / 60 if pipe.rate_per_s > 0 else math.inf
    if minutes < SURVIVES_MIN:
        said = f"{which} is used up after {minutes:.0f} minutes without the data plane"
        return warn(said, f"raise {which}, or flush_at, since larger jobs take less memory")
    return ok(f"{free / 1e6:,.0f} MB free by {which}")


@check(21, "rights in redis", "redis", "server")
def rights(pipe: Examination) -> Result:
    """Check by ACL DRYRUN, which executes nothing, that this user of Redis may run every command of the scripts."""
    queue = pipe.queue
    version = tuple(map(int, re.findall(r"\d+", str(pipe.info.get("redis_version", "")))[:1]))
    if version < (7,):
        raise Skipped("ACL DRYRUN needs Redis 7.0")
    (user,) = queue.ask(lambda each: each.execute_command("ACL", "WHOAMI"))
    more = ["WAIT 1 1"] if pipe.settings.redis_replicas else []
    lines = [line.replace("XX", queue.keys.wait).split(" ") for line in (*dry_runs(), *more)]
    answers = queue.ask(lambda each: [each.execute_command("ACL", "DRYRUN", _text(user), *line) for line in lines])
    refused = sorted({line[0] for line, answer in zip(lines, answers, strict=True) if _text(answer) != "OK"})
    if refused:
        return fail(f"the user {_text(user)} may not run {', '.join(refused)}", ACL_LINE)
    return ok(f"the user {_text(user)} may run every command")


def dry_runs() -> list[str]:
    """Return a line with arguments for each command that scripts or the sender run."""
    lines = [f"{name} {arguments}" for arguments, names in SAMPLE.items() for name in names.split()]
    return [*lines, *OTHER_COMMANDS]


def commands_of_scripts() -> set[str]:
    """Return the names of all commands in the scripts."""
    return {name.upper() for script in NAMES for name in re.findall(r'redis\.p?call\("(\w+)"', source(script))}
