"""The admin addresses of flusher and sender: /metrics and /status.json, beside what each says of its health."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe.errors import RudderpipeError
from rudderpipe.observe import status_json
from rudderpipe.observe.metrics.exposition import queue_of, served
from rudderpipe.observe.metrics.of_pipe import build_info, of_queue, of_rings
from rudderpipe.observe.metrics.of_process import of_process
from rudderpipe.observe.metrics.values import Values
from rudderpipe.observe.reader import Reader
from rudderpipe.service.http import Response, Responses
from rudderpipe.settings import Settings


def of_flusher(settings: Settings, reader: Reader) -> Responses:
    """Return the responses of a flusher: rings, queue and process."""

    def values() -> Values:
        view = reader.read()
        found = build_info("flusher")
        found.add(of_rings(view))
        found.add(of_queue(view.snapshot, queue_of(settings), settings.lanes_in_use))
        found.add(of_process())
        return found

    return _responses(settings, reader, values)


def of_sender(settings: Settings, reader: Reader) -> Responses:
    """Return the responses of a sender: queue and process. Rings are their own host's, so its flusher shows them."""

    def values() -> Values:
        found = build_info("sender")
        found.add(of_queue(reader.read().snapshot, queue_of(settings), settings.lanes_in_use))
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
