"""The recorded calls of real Bull, one a file. A state can be loaded into Redis and compared with another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import redis

FOLDER = Path(__file__).parent / "golden" / "bull-ops"
BASE = "{t}:q:"
TOKEN = "b2f0360b-40e7-4f1a-983e-28a82d9657bc"
"""The token of the Bull queue that made the traces. Our queue uses it too, so that locks and channels compare equal."""
NEAR_MS = 1_000
"""The allowed difference of two remaining lifetimes, because the recorder read them a while after the call."""
TIMES = ("timestamp", "processedOn", "finishedOn", "retriedOn")


class Entry(msgspec.Struct):
    """One key of Redis, with its type, its value and its remaining lifetime."""

    type: str
    value: Any
    pttl: int


State = dict[str, Entry]
"""Entries by key without the queue's base. Lists begin at the head, and sorted sets are (member, score) pairs."""


class Trace(msgspec.Struct):
    """One call of Bull, with the state of Redis before and after it."""

    op: str
    about: str
    t: int
    """The time at which Redis got the call, in milliseconds since 1970."""
    pubsub: list[tuple[str, str]]
    before: State
    after: State
    returned: Any = None
    error: str | None = None

    @property
    def now_ms(self) -> int:
        """Return the latest time that Bull wrote in this call, or the time at which Redis got the call."""
        return max(_times(self.after) - _times(self.before), default=self.t)


def _times(state: State) -> set[int]:
    times = {int(entry.value) for key, entry in state.items() if key == "stalled-check"}
    hashes = [entry.value for entry in state.values() if entry.type == "hash"]
    return times | {int(fields[name]) for fields in hashes for name in TIMES if name in fields}


def names() -> list[str]:
    """Return the names of all traces."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> Trace:
    """Return the trace of this name."""
    trace = msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=Trace)
    for state in (trace.before, trace.after):
        for key in list(state):
            entry = state.pop(key)
            if entry.type == "zset":
                entry.value = [(pair["member"], int(pair["score"])) for pair in entry.value]
            state[key.removeprefix(BASE)] = entry
    return trace


def load(client: Any, state: State) -> None:
    """Replace everything that Redis holds with this state."""
    client.flushall()
    for key, entry in state.items():
        name = BASE + key
        if entry.type == "hash":
            client.hset(name, mapping=entry.value)
        elif entry.type == "list":
            client.rpush(name, *entry.value)
        elif entry.type == "zset":
            client.zadd(name, dict(entry.value))
        elif entry.type == "set":
            client.sadd(name, *entry.value)
        else:
            client.set(name, entry.value)
        if entry.pttl >= 0:
            client.pexpire(name, entry.pttl)


def dump(client: Any) -> State:
    """Return everything that Redis holds."""
    reading: dict[str, Callable[[str], Any]] = {
        "hash": client.hgetall,
        "list": lambda name: client.lrange(name, 0, -1),
        "zset": lambda name: [(member, int(score)) for member, score in client.zrange(name, 0, -1, withscores=True)],
        "set": lambda name: sorted(client.smembers(name)),
        "string": client.get,
    }
    state: State = {}
    for name in sorted(client.keys("*")):
        kind = client.type(name)
        state[name.removeprefix(BASE)] = Entry(kind, reading[kind](name), client.pttl(name))
    return state


def compare(theirs: State, ours: State) -> dict[str, Any]:
    """Return our value at each place that differs, or None where ours has none.

    A place is a key, or a key and the field of a hash.
    """
    found: dict[str, Any] = {}
    for key in sorted({*theirs, *ours}):
        a, b = theirs.get(key), ours.get(key)
        if a is not None and b is not None and a.type == b.type == "hash":
            for field in {*a.value, *b.value}:
                if a.value.get(field) != b.value.get(field):
                    found[f"{key} {field}"] = b.value.get(field)
        elif a is None or b is None or (a.type, a.value) != (b.type, b.value):
            found[key] = b.value if b is not None else None
        if a is not None and b is not None and not _near(a.pttl, b.pttl):
            found[f"{key} pttl"] = b.pttl
    return found


def _near(a: int, b: int) -> bool:
    return a == b if a < 0 or b < 0 else abs(a - b) <= NEAR_MS


class Listener:
    """A subscriber of all channels, which records what is published from now on."""

    def __init__(self, client: redis.Redis) -> None:
        self._pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]  # redis types it not
        self._client: Any = client
        self._pubsub.psubscribe("*")
        self._pubsub.get_message(timeout=5)

    def heard(self) -> list[tuple[str, str]]:
        """Return the channels, without the queue's base, and the messages, in their order."""
        self._client.publish("end", "")
        messages = []
        while (message := self._pubsub.get_message(timeout=5))["channel"] != "end":
            messages.append((message["channel"].removeprefix(BASE), message["data"]))
        self._pubsub.close()
        return messages
