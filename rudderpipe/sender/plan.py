"""The plan: which manager of senders works on which queue. Every manager computes the same one from the same list."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from rudderpipe.queue.members import Member


def plan(queues: Iterable[str], members: Sequence[Member]) -> dict[str, str]:
    """Return for each queue the name of its manager; nothing without members. The order of the arguments is no matter.

    Each pair of a manager and a queue has a rank by a hash, and each queue goes to the manager with the best pair. So a
    manager that comes or goes moves about its own share of the queues. A manager gets no more than its share by weight,
    rounded up, unless the others cannot work on the rest.
    """
    queues = set(queues)
    weights = {member.name: max(1, member.profile.weight) for member in members}
    without = {(name, queue) for name, queue in _withouts(members)}
    total = sum(weights.values())
    most = {name: -(-len(queues) * weight // total) for name, weight in weights.items()}
    ranked = sorted(((name, queue) for name in weights for queue in queues), key=_rank)
    able = [pair for pair in ranked if pair not in without]
    found: dict[str, str] = {}
    load: Counter[str] = Counter()
    # A queue on which no manager can work goes to the best one all the same, because that one tries again.
    for pairs, is_bounded in ((able, True), (able, False), (ranked, False)):
        for name, queue in pairs:
            if queue not in found and not (is_bounded and load[name] >= most[name]):
                found[queue] = name
                load[name] += 1
    return found


def _withouts(members: Sequence[Member]) -> Iterable[tuple[str, str]]:
    return ((member.name, queue) for member in members for queue in member.profile.without)


def _rank(pair: tuple[str, str]) -> bytes:
    """Return a number that depends on both names alike. The crc32 of two such texts would differ by the same bits."""
    return hashlib.blake2b(" ".join(pair).encode(), digest_size=8).digest()
