"""The route: the queues that events go to, generation by generation.

It is one JSON text in Redis, in the slot of generation 0, which is the queue of the setting ``prefix``. A generation is
a number of queues among which the users are spread. Each change of that number makes another generation. Without a
route there is generation 0 alone.
"""

from __future__ import annotations

import itertools
from binascii import crc_hqx
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

import msgspec

from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue import seal
from rudderpipe.queue.keys import Keys
from rudderpipe.queue.queue import Queue
from rudderpipe.settings import Settings

UNREADABLE = "the route in Redis cannot be read; a later version may have written it"
FORGOTTEN = "redis has forgotten the route, and the queues of the setting are sealed; `rudderpipe scale` makes others"
UNLISTED = "the route has queues on servers that the setting redis does not list; give all processes the same list"
SLOTS = 16_384
CLOCKS_DIFFER_MS = 24 * 3600 * 1000
"""How far the clocks of hosts may differ."""
NAMES_TRIED = 10_000


class QueuePlace(msgspec.Struct, frozen=True, omit_defaults=True):
    """The place of one queue: its prefix, and which of the Redis servers of the settings has it."""

    prefix: str
    server: int = 0

    def settings(self, settings: Settings) -> Settings:
        """Return the settings with which a process uses this queue alone."""
        return settings.of_queue(self.prefix, self.server)


class Generation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The queues among which users are spread until the next generation is made. A user's queue is a place in them."""

    number: int
    queues: tuple[QueuePlace, ...]
    made_ms: int = 0
    """When it was made, in milliseconds since 1970; 0 for generation 0."""
    retired_ms: int = 0
    """When its queues were found empty for good, in milliseconds since 1970; 0 before that."""


class Route(msgspec.Struct, frozen=True):
    """All generations, the oldest first. ``text`` is the JSON as it is in Redis, empty while Redis has none."""

    generations: tuple[Generation, ...]
    text: str = ""

    @property
    def current(self) -> Generation:
        """The generation that new events go to."""
        return self.generations[-1]

    @property
    def living(self) -> tuple[Generation, ...]:
        """The generations whose queues may still hold events, the oldest first."""
        return tuple(each for each in self.generations if not each.retired_ms)

    def counted(self, created_ms: int) -> tuple[Generation, ...]:
        """Return the generations that may have counted events of a ring that was made at this moment."""
        return tuple(
            each for each in self.generations if not each.retired_ms or each.retired_ms > created_ms - CLOCKS_DIFFER_MS
        )

    def is_ahead_of(self, found: Route) -> bool:
        """Return True if Redis forgot this route after it was read, and ``found`` is there now.

        Generations are only ever added. If both have as many, another process has made the last ones of ``found`` anew.
        """
        ours, theirs = ([each.queues for each in route.generations] for route in (self, found))
        if len(ours) != len(theirs):
            return len(ours) > len(theirs)
        return ours != theirs and self.current.made_ms < found.current.made_ms

    def extends(self, found: Route) -> bool:
        """Return True if ``found`` lacks the last generations of this route and has all of the others."""
        ours, theirs = ([(each.queues, each.made_ms) for each in route.generations] for route in (self, found))
        return len(ours) > len(theirs) and ours[: len(theirs)] == theirs

    def with_first_living(self, servers: int) -> Route:
        """Return the route without the retirement of the generations that a flusher makes when it finds no route.

        That is without the one of generation 1 only if its queues are on the first ``servers``.
        """
        is_listed = [all(place.server < servers for place in each.queues) for each in self.generations]
        return _encoded(
            tuple(
                msgspec.structs.replace(each, retired_ms=0) if each.number < 2 and is_listed[each.number] else each
                for each in self.generations
            )
        )

    def with_queues(self, queues: Sequence[QueuePlace], now_ms: int) -> Route:
        """Return the route with one more generation."""
        return _encoded((*self.generations, Generation(len(self.generations), tuple(queues), now_ms)))

    def with_retired(self, number: int, now_ms: int) -> Route:
        """Return the route with this generation marked as retired."""
        return _encoded(
            tuple(
                msgspec.structs.replace(each, retired_ms=now_ms) if each.number == number else each
                for each in self.generations
            )
        )


class _Stored(msgspec.Struct, frozen=True):
    generations: tuple[Generation, ...]


_decode = msgspec.json.Decoder(_Stored).decode


def _encoded(generations: tuple[Generation, ...]) -> Route:
    return Route(generations, msgspec.json.encode(_Stored(generations)).decode())


def of_text(text: str, settings: Settings) -> Route:
    """Return the route in a text. Raise ``ValueError`` if it is none."""
    if not text:
        return Route((Generation(0, (QueuePlace(settings.prefix),)),))
    generations = _decode(text).generations  # msgspec's error is a ValueError
    if [each.number for each in generations] != list(range(len(generations))) or not all(
        each.queues for each in generations
    ):
        raise ValueError(text)
    return Route(generations, text)


def read(home: Queue, settings: Settings) -> Route:
    """Return the route. ``home`` is the queue of the setting ``prefix``. Raise ``QueueUnavailable``."""
    (text,) = home.ask(lambda pipe: pipe.get(home.keys.route))
    return _parsed(home, text or b"", settings)


def expected(settings: Settings) -> Route | None:
    """Return the route that the first flusher makes by these settings; None for one queue.

    It is also None for a cluster, because the names depend on the slots of its masters.
    """
    if settings.queues == 1 or settings.redis_address.cluster_nodes:
        return None
    names = names_of(_stem(settings.prefix), 1, settings.queues, {""}, lambda _name: "")
    return of_text("", settings).with_queues(_spread(names, settings), 0)


def _spread(names: Sequence[str], settings: Settings) -> list[QueuePlace]:
    """Return the places of queues, which take the servers of the settings in turn."""
    servers = len(settings.redis_servers)
    return [QueuePlace(name, place % servers) for place, name in enumerate(names)]


def exists(home: Queue) -> bool:
    """Return whether there is a route, so that events may go to other queues. Raise ``QueueUnavailable``."""
    (found,) = home.ask(lambda pipe: pipe.exists(home.keys.route))
    return bool(found)


def store(home: Queue, settings: Settings, known: Route, wanted: Route) -> Route:
    """Store a route that was made from ``known``. Return the one in Redis, another process's if that was quicker.

    Raise ``QueueUnavailable``. A repeated call after a lost answer returns what is there.
    """
    return _parsed(home, home.call("set_route", [home.keys.route], known.text, wanted.text), settings)


def store_again(home: Queue, settings: Settings, found: Route, known: Route) -> Route:
    """Store the known route again, which Redis has forgotten, in the place of the one that was found.

    Return the one in Redis. Flushers that have started meanwhile may have added events to the queues of generations 0
    and 1, so these are not retired any more. Raise ``QueueUnavailable``.
    """
    return store(home, settings, found, known.with_first_living(len(settings.redis_servers)))


def _parsed(home: Queue, text: bytes, settings: Settings) -> Route:
    try:
        found = of_text(text.decode(), settings)
    except ValueError:
        raise QueueUnavailable(home.place, UNREADABLE, answered=True) from None
    # Otherwise this process would use a queue of the same name on another server, which no other process knows.
    if any(place.server >= len(settings.redis_servers) for each in found.living for place in each.queues):
        raise QueueUnavailable(home.place, UNLISTED, answered=True)
    return found


def is_unused(home: Queue) -> bool:
    """Return True if no job was ever added to the queue since Redis knows it. Raise ``QueueUnavailable``."""
    keys = home.keys
    (found,) = home.ask(
        lambda pipe: pipe.exists(
            *(keys.id, keys.wait, keys.paused, keys.active, keys.delayed, keys.failed, keys.completed, keys.account)
        )
    )
    return not found


def with_queues(home: Queue, settings: Settings, known: Route, count: int) -> Route:
    """Return ``known`` with one more generation of so many queues, spread over all servers or nodes.

    Raise ``QueueUnavailable`` if the nodes of a cluster cannot be asked.
    """
    nodes = _nodes(home) if settings.redis_address.cluster_nodes else {range(SLOTS): ""}

    def node_of(prefix: str) -> str:
        slot = slot_of(Keys(prefix, settings.queue_name).wait)
        return next(node for slots, node in nodes.items() if slot in slots)

    names = names_of(_stem(settings.prefix), len(known.generations), count, set(nodes.values()), node_of)
    return known.with_queues(_spread(names, settings), home.clock.time_ms())


def _nodes(home: Queue) -> dict[range, str]:
    """Return the master of each part of a cluster's slots. Raise ``QueueUnavailable``."""
    (found,) = home.ask(lambda pipe: pipe.execute_command("CLUSTER SLOTS"))
    nodes = {range(first, last + 1): str(master[:2]) for first, last, master, *_ in found}
    if sum(map(len, nodes)) < SLOTS:
        raise QueueUnavailable(home.place, "some slots of the cluster have no master now", answered=True)
    return nodes


def slot_of(key: str) -> int:
    """Return the slot in which a cluster keeps a key with a hash tag."""
    return crc_hqx(key.partition("{")[2].partition("}")[0].encode(), 0) % SLOTS


def establish(home: Queue, settings: Settings, count: int) -> Route:
    """Return the route. If there is none and no queue is in use yet, make generation 1 with so many queues first.

    Raise ``QueueUnavailable``, also if one of these queues is sealed: Redis has forgotten the route then, and later
    generations have events.
    """
    known = read(home, settings)
    if count == 1 or known.text or not is_unused(home):
        return known
    wanted = with_queues(home, settings, known, count)
    away: set[int] = set()
    for place in wanted.current.queues:
        if place.server not in away and _is_sealed(Queue(place.settings(settings), home.clock), place, away):
            raise QueueUnavailable(home.place, FORGOTTEN, answered=True)
    return store(home, settings, known, wanted)


def _is_sealed(queue: Queue, place: QueuePlace, away: set[int]) -> bool:
    """Return whether a queue takes no more events. Note its server if that is away."""
    with closing(queue):
        try:
            return seal.is_sealed(queue)
        except QueueUnavailable:
            away.add(place.server)
            return False


def _stem(prefix: str) -> str:
    return prefix[1:-1] if prefix.startswith("{") and prefix.endswith("}") else prefix


def names_of(stem: str, generation: int, count: int, nodes: set[str], node_of: Callable[[str], str]) -> list[str]:
    """Return prefixes for a generation's queues, such that each node gets as many of them as every other one.

    The first choice for the place i is ``stem-i``, and in later generations ``stem-generation-i``. A number behind it
    moves the queue to another node.
    """
    load = Counter(dict.fromkeys(nodes, 0))
    names = []
    for place in range(count):
        first = f"{stem}-{place}" if generation == 1 else f"{stem}-{generation}-{place}"
        least = min(load.values(), default=0)
        tried = itertools.chain([first], (f"{first}.{number}" for number in range(1, NAMES_TRIED)))
        name = next((name for name in tried if load[node_of(name)] <= least), first)
        load[node_of(name)] += 1
        names.append(name)
    return names
