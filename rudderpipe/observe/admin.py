"""The admin addresses of flusher and sender: /metrics and /status.json, beside what each says of its health."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.errors import RudderpipeError
from rudderpipe.flusher.counts import FlusherCounts
from rudderpipe.flusher.redelivery import Redelivery
from rudderpipe.observe import status_json
from rudderpipe.observe.metrics import of_counts
from rudderpipe.observe.metrics.exposition import queue_of, served
from rudderpipe.observe.metrics.of_pipe import build_info, of_queues, of_rings
from rudderpipe.observe.metrics.of_process import of_process
from rudderpipe.observe.metrics.values import Values, unpacked
from rudderpipe.observe.reader import Reader
from rudderpipe.process.clock import Clock
from rudderpipe.sender.state import SenderState
from rudderpipe.service.http import Response, Responses
from rudderpipe.settings import Settings


def of_flusher(settings: Settings, reader: Reader, counts: FlusherCounts, redelivery: Redelivery | None) -> Responses:
    """Return the responses of a flusher: rings, queue and process. ``redelivery`` is that of direct mode."""
    queue, pipe = queue_of(settings), settings.pipe_name

    def values() -> Values:
        view = reader.read()
        found = build_info("flusher")
        found.add(of_rings(view))
        found.add(of_queues(view.snapshot, settings.lanes_in_use))
        found.add(of_counts.of_flusher(counts, redelivery.lost_events if redelivery else 0, pipe, queue))
        if redelivery is not None:
            found.add(of_counts.of_attempts(redelivery.attempts, [redelivery.plane], queue))
        found.add(of_process())
        return found

    return _responses(settings, reader, values)


def of_sender(
    settings: Settings,
    reader: Reader,
    state: SenderState,
    planes: Sequence[DataPlane],
    lanes_wait_s: Callable[[], Mapping[str, float]],
    clock: Clock,
) -> Responses:
    """Return the responses of a sender: queue and process. Rings are their own host's, so its flusher shows them."""

    return _of_senders(settings, reader, lambda: [counts_of_sender(settings, state, planes, lanes_wait_s, clock)])


def counts_of_sender(
    settings: Settings,
    state: SenderState,
    planes: Sequence[DataPlane],
    lanes_wait_s: Callable[[], Mapping[str, float]],
    clock: Clock,
) -> Values:
    """Return what a sender counts itself, for the queue of its settings."""
    queue = queue_of(settings)
    found = of_counts.of_attempts(state.counts.attempts, planes, queue)
    found.add(of_counts.of_sender(state, lanes_wait_s(), clock.monotonic_s(), queue))
    return found


def of_manager(settings: Settings, reader: Reader, lines: Callable[[], Sequence[bytes]]) -> Responses:
    """Return the responses of a manager: the queues, what its senders count, and its own process.

    ``lines`` returns the last line of each sender.
    """

    return _of_senders(settings, reader, lambda: map(unpacked, lines()))


def _of_senders(settings: Settings, reader: Reader, counts: Callable[[], Iterable[Values]]) -> Responses:
    """Return the responses of a process that shows the queues, what each of its senders counts, and itself."""

    def values() -> Values:
        found = build_info("sender")
        found.add(of_queues(reader.read().snapshot, settings.lanes_in_use))
        for each in counts():
            found.add(each)
        found.add(of_process())
        return found

    return _responses(settings, reader, values)


def _responses(settings: Settings, reader: Reader, values: Callable[[], Values]) -> Responses:
    def status(_accept: str) -> Response:
        try:
            return Response(200, status_json.of(reader.read().snapshot, settings))
        except RudderpipeError as error:
            return Response(503, {"error": str(error)})

    return {"/metrics": lambda accept: served(values, accept), "/status.json": status}
