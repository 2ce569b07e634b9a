"""The queues that have events of one ring, or get them, by generation."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.flusher.queue_cursor import QueueCursor
from rudderpipe.flusher.route_file import RouteFile
from rudderpipe.flusher.window import Offsets
from rudderpipe.queue.route import QueuePlace, Route


class RingQueues:
    """The queues of the route that the flusher of a ring uses."""

    def __init__(
        self,
        make: Callable[[QueuePlace], QueueCursor],
        home: QueuePlace,
        file: RouteFile | None,
        on_route: Callable[[], None],
    ) -> None:
        """``make`` returns the cursor of a queue. ``home`` is the queue beside which the route is.

        ``file`` has the route that was used last. ``on_route`` is called when a route is used by which events go to
        other queues than the home.
        """
        self._make = make
        self._file = file
        self._on_route = on_route
        self._remembered = file.read() if file is not None else None
        """The route that the flusher before used last."""
        self._cursors: dict[QueuePlace, QueueCursor] = {}
        self.home = self._cursor(home)
        self.route: Route | None = None
        """None until it is read."""
        self.past: list[tuple[int, list[QueueCursor]]] = []
        """The earlier generations that may still hold events, each with its number."""
        self.current: list[QueueCursor] = []
        """The queues that new events go to."""

    @property
    def all(self) -> list[QueueCursor]:
        """Every queue that may have counted events of the ring, also those of retired generations."""
        return list(self._cursors.values())

    @property
    def past_cursors(self) -> list[QueueCursor]:
        """The queues of the earlier generations that may still hold events."""
        return [cursor for _, cursors in self.past for cursor in cursors]

    @property
    def in_use(self) -> list[QueueCursor]:
        """The home, and the queues that may hold events or get them."""
        return [self.home, *self.past_cursors, *self.current]

    @property
    def unconfirmed_since_ms(self) -> int:
        """The moment of the monotonic clock since which replicas of a queue lack events; 0 if all have them."""
        return min((each.unconfirmed_since_ms for each in self.in_use if each.unconfirmed_since_ms), default=0)

    @property
    def former(self) -> list[list[Offsets]]:
        """What the queues of the earlier generations have, for each generation."""
        return [[cursor.offsets for cursor in cursors] for _, cursors in self.past]

    @property
    def has_route(self) -> bool:
        """True if it is known that there is a route, so that none may be made by the settings."""
        return bool(self._remembered or (self.route is not None and self.route.text))

    def forgotten(self, found: Route) -> Route | None:
        """Return the route that Redis has forgotten, if ``found`` is what it has instead."""
        if self.route is not None:
            return self.route if self.route.is_ahead_of(found) else None
        # The flusher before may have ended long ago. A route that was made anew since then counts.
        return self._remembered if self._remembered is not None and self._remembered.extends(found) else None

    def use(self, found: Route, ring_created_ms: int) -> None:
        """Use a route for a ring that was made at this moment, in milliseconds since 1970."""
        *past, current = found.living
        self.route = found
        self.past = [(each.number, [self._cursor(place) for place in each.queues]) for each in past]
        self.current = [self._cursor(place) for place in current.queues]
        # The queues of retired generations are only counted.
        counted = found.counted(ring_created_ms)
        used = {self.home, *(self._cursor(place) for each in counted for place in each.queues)}
        self._cursors = {place: cursor for place, cursor in self._cursors.items() if cursor in used}
        if self.current != [self.home]:
            if self._file is not None:
                self._file.write(found)
            self._on_route()

    def end(self) -> None:
        """Forget the route that was used, because the ring has ended."""
        if self._file is not None:
            self._file.remove()

    def _cursor(self, place: QueuePlace) -> QueueCursor:
        if place not in self._cursors:
            self._cursors[place] = self._make(place)
        return self._cursors[place]
