"""A data plane on loopback for tests, which keeps the received events and can fail on request."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import msgspec

from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour

STEP_S = 0.01


class LocalDataPlane:
    """A data plane that responds as RudderStack's gateway does, on a port that the system chooses."""

    def __init__(self) -> None:
        self._server = DataPlaneServer(0, Misbehaviour())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(STEP_S,), daemon=True)

    @property
    def url(self) -> str:
        """The value for a client's ``data_plane_url``."""
        return self._server.url

    def fail(self, status: int, times: int | None = None) -> None:
        """Respond with this status to the next ``times`` requests; without ``times``, to all until ``recover``."""
        self._server.misbehaviour = Misbehaviour(status, times, self._server.misbehaviour.delay_ms)

    def delay(self, delay_ms: int) -> None:
        """Delay every response by ``delay_ms`` milliseconds."""
        self._server.misbehaviour.delay_ms = delay_ms

    def recover(self) -> None:
        """Accept requests again, without delay."""
        self._server.misbehaviour = Misbehaviour()

    @property
    def requests(self) -> int:
        """The number of received requests, including refused ones."""
        return self._server.stats()["requests"]

    def events(self) -> list[dict[str, Any]]:
        """Return the messages of the last 100 accepted requests, in the order of arrival."""
        return [event for body in self._server.last_events() for event in msgspec.json.decode(body)["batch"]]

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """Return the events once ``count`` different message ids have arrived. Raise ``TimeoutError``."""
        deadline_s = time.monotonic() + timeout_s
        while self._server.stats()["unique_message_ids"] < count:
            if time.monotonic() >= deadline_s:
                came = self._server.stats()["unique_message_ids"]
                raise TimeoutError(f"{came} of {count} events arrived within {timeout_s:g} s")
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
