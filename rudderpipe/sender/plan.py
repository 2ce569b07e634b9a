"""The plan: which manager of senders works on which queue. Every manager computes the same one from the same list."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rudderpipe.queue.members import Member


class Plan(NamedTuple):
    """The names of managers, for each queue. Both are empty without a manager."""

    first: dict[str, str]
    """The first choice: the manager that works on the queue if it can."""
    working: dict[str, str]
    """The manager that works on the queue: the first choice, or the next one that can."""


def plan(queues: Iterable[str], members: Sequence[Member]) -> Plan:
    """Return which manager works on which queue. The order of the arguments does not matter.

    Each pair of a manager and a queue has a rank by a hash, and each queue goes to the manager with the best pair. So a
    manager that comes or goes moves about its own share of the queues. No manager is the first choice for more than its
    share by weight, rounded up. A queue on which no manager can work stays with the first choice.
    """
    queues = set(queues)
    weights = {member.name: max(1, member.profile.weight) for member in members}
    total = sum(weights.values())
    most = {name: -(-len(queues) * weight // total) for name, weight in weights.items()}
    ranked = sorted(((name, queue) for name in weights for queue in queues), key=_rank)
    first: dict[str, str] = {}
    load: Counter[str] = Counter()
    for name, queue in ranked:
        if queue not in first and load[name] < most[name]:
            first[queue] = name
            load[name] += 1
    without = {(member.name, queue) for member in members for queue in member.profile.without}
    able: dict[str, str] = {}
    for name, queue in ranked:
        if (name, queue) not in without:
            able.setdefault(queue, name)
    working = {queue: able.get(queue, name) if (name, queue) in without else name for queue, name in first.items()}
    return Plan(first, working)


def _rank(pair: tuple[str, str]) -> bytes:
    """Return a number that depends on both names alike. The crc32 of two such texts would differ by the same bits."""
    return hashlib.blake2b(" ".join(pair).encode(), digest_size=8).digest()
