"""What the processes of a server do with all the clients that they have."""

from __future__ import annotations

from rudderpipe import log_text
from rudderpipe.client import living

logger = log_text.logger()


def begin() -> None:
    """In a process that has just begun: have what its first event would have to wait for."""
    for client in living():
        client.warm_up()


def end() -> None:
    """In a process that ends: give its places in the rings back. Its events need nothing, and nothing is waited for."""
    for client in living():
        client.shutdown(timeout_s=0)


def wait_for_rings() -> None:
    """Once nobody sends any more: wait, ``shutdown_timeout_s`` at the most, until what was accepted has left the rings.

    Of use where the ring ends with the server, as in a container.
    """
    for client in living():
        result = client.flush(client.settings.shutdown_timeout_s)
        if not result:
            logger.warning("the server ends, events stay in the ring for the next flusher events=%d", result.pending)
