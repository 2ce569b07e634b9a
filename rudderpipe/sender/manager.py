"""The manager of senders: it shares the queues with the managers of other hosts, and has a sender for each of its own.

Exclusivity is not the manager's: the lease of each queue lets one sender work. So managers that see different lists for
a moment cost a hand-over, and never two senders.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable
from rudderpipe.process.clock import Clock, Every
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue import gate, members, route, seal
from rudderpipe.queue.members import Member, Profile
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.queue.route import Generation, QueuePlace, Route
from rudderpipe.sender.children import Children
from rudderpipe.sender.manager_state import ManagerState
from rudderpipe.sender.plan import Plan, plan
from rudderpipe.sender.sender import AWAY_S
from rudderpipe.service.calls import Calls, Ended
from rudderpipe.settings import Settings

LOOK_S = 1.0
"""The longest pause between two looks at the members, the route and the own queues."""
LOOKS = 2
"""After so many looks a list that Redis had forgotten has all managers again."""
LEASES = 2
"""How many leases a queue waits for its new manager, and for one that cannot reach it."""
AGAIN_S = 300.0
"""A manager that could not work on a queue of another first choice is not tried again for so long."""
DRAIN_S = 0.02
HOME, GATE = "home", "gate"
logger = log_text.logger("rudderpipe.sender")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _OwnQueue:
    """A queue of this manager, which its thread looks at. The thread uses a connection of its own."""

    def __init__(self, queues: QueueSet, place: QueuePlace, earlier: Generation | None, now_s: float) -> None:
        self._queues = queues
        self._place = place
        self.earlier = earlier
        """The generation that must be drained before; None for the first one."""
        self.is_open = False
        """True once a sender may deliver from the queue. This is for good."""
        self.seen_s = now_s
        """When the queue could be used last."""
        self.is_asked = False

    def look(self, *, may_open: bool) -> bool:
        """Reach the queue; return whether it is open. Raise ``QueueUnavailable``.

        With ``may_open`` the queue is opened, because the generation before is drained. It is opened again if Redis has
        forgotten that it is open, because later queues wait for it.
        """
        queue = self._queues.queue(self._place)
        queue.check_owner()
        if self.earlier is None or seal.is_open(queue):
            return True
        opens = self.is_open or may_open
        if opens:
            seal.open_(queue)
        return opens

    def close(self) -> None:
        """Close the connection."""
        self._queues.close()


class Manager:
    """The work of a manager, as ``service.loop`` runs it.

    It is the first choice for the queues that the plan gives it. It says so to the other managers if it cannot work on
    one, because the sender ends again and again, because the queue is not reached, or because its jobs are for another
    data plane. The plan then gives the queue to the next one, until the first choice, which goes on trying, can work on
    it.
    """

    def __init__(
        self,
        settings: Settings,
        children: Children,
        clock: Clock,
        *,
        calls: Calls | None = None,
        home: Queue | None = None,
        queues: Callable[[], QueueSet] | None = None,
        abandoned: Callable[[], bool] = lambda: False,
        on_cycle: Callable[[], None] = lambda: None,
    ) -> None:
        """``home`` is the queue of the settings. ``queues`` makes a set of all queues for one thread.

        ``on_cycle`` is called in each cycle, also of a drain. ``abandoned`` returns whether the parent has ended.
        """
        self._settings = settings
        self._children = children
        self._clock = clock
        self._calls = calls or Calls("rudderpipe-manager", self._no_thread)
        self._home = home or Queue(settings, clock)
        self._queues = queues or (lambda: QueueSet(settings, clock))
        self._abandoned = abandoned
        self._on_cycle = on_cycle
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self.name = secrets.token_hex(8)
        self._profile = Profile(cores(), "".join(socket.gethostname().split()) or "localhost", os.getpid())
        self._lease_s = settings.lease_ms / 1000
        self._looking = Every(min(LOOK_S, self._lease_s / 3))
        self._without: dict[str, float] = {}
        """The queues on which this manager cannot work, by prefix, and until when it says so."""
        self._needed_s = clock.monotonic_s()
        """When a sender ran last, or the parent process."""
        self._is_home_asked = self._is_gate_asked = False
        self._gates_queues = self._queues()
        self._drained: set[Generation] = set()
        """The generations that were found drained. This is for good."""
        self._listed_s: float | None = None
        self.members: list[Member] = []
        self.route: Route | None = None
        """The route as it was read last; None until Redis has answered."""
        self._places: dict[str, QueuePlace] = {}
        """The queues of the generations that are not retired, by prefix."""
        self._own: dict[QueuePlace, _OwnQueue] = {}
        self.state = ManagerState(worked_s=clock.monotonic_s())
        """Replaced whole in each cycle, so any thread may read it."""
        self._planned: tuple[object, Plan] = (None, Plan({}, {}))

    def _no_thread(self, error: Exception) -> None:
        self._log.warning("thread", "no thread can be started, the queues are looked at in turn error=%s", error)

    def work(self) -> int:
        """Run one cycle. It never waits for Redis or for a sender. Return 0, so that the loop pauses."""
        now_s = self._clock.monotonic_s()
        self._on_cycle()
        self._collect(now_s)
        if self._looking.is_due(now_s):
            self._look()
        self._share(now_s)
        self._children.look()
        if self._children.running or not self._abandoned():
            self._needed_s = now_s
        self._show(now_s)
        return 0

    def _show(self, now_s: float) -> None:
        wanted = self._children.places
        self.state = ManagerState(
            worked_s=now_s,
            listed_s=self._listed_s,
            managers=len(self.members),
            queues=len(wanted),
            idle=_prefixes(wanted - self._children.running - self._children.done),
            lost=_prefixes(self._lost(now_s)),
            closed=_prefixes(place for place, own in self._own.items() if not own.is_open),
        )

    def _lost(self, now_s: float) -> set[QueuePlace]:
        """Return the own queues that could not be used for long."""
        return {place for place, own in self._own.items() if now_s - own.seen_s > LEASES * self._lease_s}

    def _look(self) -> None:
        if not self._is_home_asked:
            profile = self._profile  # the thread must not see a later value
            self._is_home_asked = True
            self._calls.begin(HOME, partial(self._ask_home, profile, self.route))
        for place, own in self._own.items():
            if not own.is_asked:
                own.is_asked = True
                self._calls.begin(place, partial(own.look, may_open=own.earlier in self._drained))
        closed = {own.earlier for own in self._own.values() if own.earlier is not None and not own.is_open}
        if closed - self._drained and not self._is_gate_asked:
            self._is_gate_asked = True
            self._calls.begin(GATE, partial(self._ask_gate, closed - self._drained))

    def _ask_gate(self, generations: set[Generation]) -> set[Generation]:
        """Return those of the generations that are drained.

        They are looked at by one thread for all queues behind them, because each queue has a connection.
        """
        return {each for each in generations if gate.is_drained(self._gates_queues.queue, each)}

    def _ask_home(self, profile: Profile, known: Route | None) -> tuple[list[Member], Route]:
        # Order: a manager that cannot read the route, because a later version has written it, must not get a share.
        found = route.read(self._home, self._settings)
        if known is not None and known.is_ahead_of(found):
            self._log.error("route", "redis has forgotten the route to the queues, storing it again")
            found = route.store_again(self._home, self._settings, found, known)
        return members.renew(self._home, self.name, profile, self._settings.lease_ms), found

    def _collect(self, now_s: float) -> None:
        """Note the answers that have come."""
        while (ended := self._calls.next(0.0)) is not None:
            if ended.owner == HOME:
                self._note_home(ended, now_s)
            elif ended.owner == GATE:
                self._note_gate(ended)
            elif ended.owner in self._own:
                self._note_own(ended, now_s)

    def _note_home(self, ended: Ended, now_s: float) -> None:
        self._is_home_asked = False
        if self.state.stopping:
            return
        if isinstance(ended.result, Exception):
            said = "the list of managers cannot be read, senders go on, trying again error=%s"
            if self.route is None:
                said = "the list of managers cannot be read, no sender is started, trying again error=%s"
            self._log.warning(HOME, said, _reason(ended.result))
        elif ended.result is not None:
            self.members, self.route = ended.result
            self._listed_s = now_s
            self._log.over(HOME, "the list of managers can be read again")
            self._places = {place.prefix: place for each in self.route.living for place in each.queues}
        self._know_own(now_s)

    def _note_gate(self, ended: Ended) -> None:
        self._is_gate_asked = False
        if isinstance(ended.result, Exception):
            said = "a queue cannot be read that must be drained before others, trying again error=%s"
            self._log.warning(GATE, said, _reason(ended.result))
            return
        self._log.over(GATE, "the queues that must be drained before others can be read again")
        if ended.result:
            self._drained |= ended.result
            self._gates_queues.close()  # they connect again if they are asked again
            self._looking.at_once()

    def _know_own(self, now_s: float) -> None:
        """Look at the queues of this manager, and no more at others."""
        if self.route is None:
            return
        generations = self.route.generations
        earlier = {
            place: generations[each.number - 1] if each.number else None
            for each in self.route.living
            for place in each.queues
        }
        wanted = self._mine()
        for place in wanted - set(self._own):
            self._own[place] = _OwnQueue(self._queues(), place, earlier[place], now_s)
            # Its sender may go on while the queue is looked at.
            self._own[place].is_open = place in self._children.places
            self._looking.at_once()
        for place in [place for place, own in self._own.items() if place not in wanted and not own.is_asked]:
            self._own.pop(place).close()

    def _note_own(self, ended: Ended, now_s: float) -> None:
        own = self._own[ended.owner]
        own.is_asked = False
        if isinstance(ended.result, Exception):
            said = "a queue of this manager cannot be used, trying again error=%s"
            self._log.warning(ended.owner.prefix, said, _reason(ended.result))
            return
        self._log.over(ended.owner.prefix, "a queue of this manager can be used again")
        own.seen_s = now_s
        own.is_open = own.is_open or ended.result

    def _plan(self) -> Plan:
        given = (sorted(self._places), [(each.name, each.profile) for each in self.members])
        if self._planned[0] != given:
            self._planned = (given, plan(self._places, self.members))
        return self._planned[1]

    def _mine(self) -> set[QueuePlace]:
        """Return the queues on which this manager works, or of which it is the first choice."""
        if self._settings.is_multi_processor:
            return set(self._places.values())
        own = self._plan()
        return {
            place for name, place in self._places.items() if self.name in (own.working.get(name), own.first.get(name))
        }

    def _share(self, now_s: float) -> None:
        """Have senders for the own queues that are open, and give up those that have another manager."""
        mine, with_sender = self._mine(), self._children.places
        wanted = {place for place in mine if place in self._own and self._own[place].is_open}
        if not self._is_settled:
            wanted &= with_sender
        retired = with_sender - set(self._places.values())
        kept = {place for place in with_sender - mine - retired if not self._may_give_up(place)}
        for prefix in _prefixes(with_sender & retired):
            logger.info("the queue is retired, its sender ends queue=%s", prefix)
        for prefix in _prefixes(with_sender - retired - wanted - kept):
            logger.info("handing the queue over queue=%s", prefix)
        self._children.want(wanted | kept)
        self._know_trouble(mine, now_s)

    @property
    def _is_settled(self) -> bool:
        """False while managers may be missing in the list, because it was empty a moment ago.

        Otherwise each manager would start senders for the queues of those that are missing.
        """
        age_s = max((each.member_ms for each in self.members), default=0) / 1000
        return age_s >= LOOKS * self._looking.seconds

    def _may_give_up(self, place: QueuePlace) -> bool:
        """Return whether the queue's new manager has had the time to start a sender."""
        name = self._plan().working.get(place.prefix)
        member_ms = next((each.member_ms for each in self.members if each.name == name), 0)
        return member_ms >= LEASES * self._settings.lease_ms

    def _know_trouble(self, mine: set[QueuePlace], now_s: float) -> None:
        """Note on which queues this manager cannot work. The list gets it with the next look."""
        trouble = self._lost(now_s) | self._children.failing
        if self._abandoned():  # it takes no further queues
            trouble |= set(self._places.values()) - self._children.running
        for place in mine - trouble:
            self._without.pop(place.prefix, None)
        self._without |= {place.prefix: now_s + AGAIN_S for place in trouble}
        self._without = {name: until_s for name, until_s in self._without.items() if now_s < until_s}
        self._profile = msgspec.structs.replace(self._profile, without=tuple(sorted(self._without)))

    def finished(self) -> bool:
        """Return True once the parent process has ended, and each own queue was delivered or had no sender for long."""
        if not self._abandoned():
            return False
        working = {self._places[name] for name, each in self._plan().working.items() if each == self.name}
        is_delivered = bool(self._places) and working <= self._children.done and not self._children.running
        return is_delivered or self._clock.monotonic_s() - self._needed_s >= AWAY_S

    def drain(self, deadline_s: float) -> None:
        """Leave the list, so that the other managers start their senders, and let all senders end at once.

        Senders that still run at ``deadline_s`` of the monotonic clock are killed.
        """
        queues = len(self._children.places)
        # Order: before anything else, because a second signal ends this process, and only senders that were asked to
        # end do then end at once.
        self._children.want(())
        logger.info("stopping the senders of this manager queues=%d", queues)
        self.state = msgspec.structs.replace(self.state, stopping=True)
        has_left = False
        while self._clock.monotonic_s() < deadline_s:
            self._on_cycle()
            self._collect(self._clock.monotonic_s())
            if not self._is_home_asked and not has_left:
                # Order: after the last renewal has ended, which would else come later and make a member again.
                has_left = self._is_home_asked = True
                self._calls.begin(HOME, self._leave)
            self._children.look()
            if not self._children.running and not self._is_home_asked:
                break
            self._clock.sleep(DRAIN_S)
        self._children.kill()

    def _leave(self) -> None:
        members.leave(self._home, self.name, self._profile)

    def close(self) -> None:
        """Close the connections, except those that a thread still uses: they end with the process."""
        self._calls.close()
        if not self._is_home_asked:
            self._home.close()
        if not self._is_gate_asked:
            self._gates_queues.close()
        for own in self._own.values():
            if not own.is_asked:
                own.close()


def _prefixes(places: Iterable[QueuePlace]) -> tuple[str, ...]:
    return tuple(sorted(place.prefix for place in places))


def _reason(error: Exception) -> str:
    """Return the text of an error; the type too of one of this host, such as MemoryError, which may have no text."""
    return str(error) if isinstance(error, QueueUnavailable) else repr(error)
