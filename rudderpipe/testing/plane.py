"""A data plane on loopback for tests: it keeps what it gets, and fails when told to."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import msgspec

from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour

STEP_S = 0.01


class LocalDataPlane:
    """Answers as RudderStack's gateway does, on a port that the system chose."""

    def __init__(self) -> None:
        self._server = DataPlaneServer(0, Misbehaviour())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(STEP_S,), daemon=True)

    @property
    def url(self) -> str:
        """What a client takes as ``data_plane_url``."""
        return self._server.url

    def fail(self, status: int, times: int | None = None) -> None:
        """Answer that status to the next ``times`` requests; to all, unless given, until ``recover``."""
        self._server.misbehaviour = Misbehaviour(status, times, self._server.misbehaviour.delay_ms)

    def delay(self, delay_ms: int) -> None:
        """Answer so much later."""
        self._server.misbehaviour.delay_ms = delay_ms

    def recover(self) -> None:
        """Answer at once, and well."""
        self._server.misbehaviour = Misbehaviour()

    @property
    def requests(self) -> int:
        """How many came, refused ones included."""
        return self._server.stats()["requests"]

    def events(self) -> list[dict[str, Any]]:
        """The messages of the last hundred requests that were not refused, in the order of their coming."""
        return [event for body in self._server.last_events() for event in msgspec.json.decode(body)["batch"]]

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """The events, once so many different ones have come. Raises ``TimeoutError``."""
        deadline_s = time.monotonic() + timeout_s
        while self._server.stats()["unique_message_ids"] < count:
            if time.monotonic() >= deadline_s:
                came = self._server.stats()["unique_message_ids"]
                raise TimeoutError(f"{came} of {count} events came within {timeout_s:g} s")
            time.sleep(STEP_S)
        return self.events()

    def __enter__(self) -> LocalDataPlane:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
