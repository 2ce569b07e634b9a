"""The check of ``python -m rudderpipe.flusher --check``: whether events can go into Redis."""

from __future__ import annotations

from contextlib import closing

from rudderpipe.errors import AnotherDataPlane, QueueUnavailable
from rudderpipe.process import spawn
from rudderpipe.process.clock import Clock
from rudderpipe.queue import route, scaling
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.queue_set import QueueSet
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE
from rudderpipe.settings import Settings

ADVICE = "set another queue_name, or make the queue this data plane's own with: rudderpipe queue --adopt"


def check(settings: Settings, clock: Clock) -> tuple[int, str]:
    """Check that each queue and server takes writes, and has no jobs for another data plane.

    Return the exit code and the lines to print. The application's process parses the last one.
    """
    with closing(QueueSet(settings, clock)) as queues:
        try:
            checked = scaling.usable(queues, settings, route.read(queues.home, settings))
        except QueueUnavailable as error:
            return EXIT_UNAVAILABLE, str(error)
        said: list[str] = []
        errors: list[QueueUnavailable] = []
        for queue in checked:
            try:
                said += _refused_channels(queue)
            except QueueUnavailable as error:
                errors.append(error)
    for found in errors:
        if isinstance(found, AnotherDataPlane):
            return EXIT_FAILED, "\n".join([*said, ADVICE, f"{spawn.OTHER_PLANE}{found.owner}"])
    code = EXIT_UNAVAILABLE if errors else EXIT_OK
    return code, "\n".join([*said, *(map(str, errors) if errors else [spawn.CHECKED])])


def _refused_channels(queue: Queue) -> list[str]:
    """Return a line if Redis refuses PUBLISH. Raise ``QueueUnavailable`` if the queue cannot be used."""
    queue.check_owner()
    scaling.check_writes(queue)
    refusal = queue.try_publish()
    return [f"Bull's listeners get no events, because Redis refuses PUBLISH: {refusal}"] if refusal else []
