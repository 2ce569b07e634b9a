"""The start and the end of a server's processes, for all clients of the process."""

from __future__ import annotations

from rudderpipe import log_text
from rudderpipe.client import living

logger = log_text.logger()


def begin() -> None:
    """Warm up all clients of a new process, so that its first event need not wait."""
    for client in living():
        client.warm_up()


def end() -> None:
    """Release the slots of an ending process without waiting; its accepted events outlive it."""
    for client in living():
        client.shutdown(timeout_s=0)


def wait_for_rings() -> None:
    """Wait until the accepted events have left the rings, at most ``shutdown_timeout_s`` for each client.

    Call it when no process sends events any more. It is useful where the ring ends with the server, as in a container.
    """
    for client in living():
        result = client.flush(client.settings.shutdown_timeout_s)
        if not result:
            logger.warning("the server ends and events stay in the ring for the next flusher events=%d", result.pending)
