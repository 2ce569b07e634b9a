"""The HTTP server of ``rudderpipe web``: waitress, with one time limit for each request and a bound for connections."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from rudderpipe.errors import ExtraMissing, SettingsError
from rudderpipe.observe.web.application import Application
from rudderpipe.observe.web.history import INTERVAL_S
from rudderpipe.observe.web.request import BODY_BYTES, Refused
from rudderpipe.observe.web.response import of_refusal, status_line
from rudderpipe.service.http import BACKLOG, text_of

try:
    from waitress import wasyncore
    from waitress.adjustments import Adjustments
    from waitress.channel import HTTPChannel
    from waitress.server import TcpWSGIServer
    from waitress.task import ErrorTask, ThreadedTaskDispatcher
    from waitress.utilities import logger as waitress_log
except ImportError:
    raise ExtraMissing("web", "waitress") from None

THREADS = 8
CONNECTIONS = 32
"""How many clients are served at once. For one more, the one that has waited longest without a request is dropped."""
SILENCE_S = 5.0
"""How long a client has to send a whole request, and how long it may take none of a response."""
HEAD_BYTES = 16_384
STOP_S = 2
"""How long a stop waits for requests that are under way."""
LOOK_S = 1.0
_SENTENCES = {
    400: "The request is not HTTP.",
    413: f"The body must not be longer than {BODY_BYTES:,} bytes.",
    431: f"The head of the request must not be longer than {HEAD_BYTES:,} bytes.",
    501: "This way of sending a body is not supported.",
}


class _ErrorTask(ErrorTask):  # type: ignore[misc]  # waitress has no types
    """The response to what is no proper request, with the headers of every other response."""

    def execute(self) -> None:
        """Send the response, and close the connection."""
        status = int(self.request.error.code)
        found = of_refusal(Refused(status, _SENTENCES.get(status, "The request failed.")))
        assert isinstance(found.body, bytes)
        self.status = status_line(status)
        self.response_headers.extend(found.fields())
        self.set_close_on_finish()
        self.content_length = len(found.body)
        self.write(found.body)


class _Channel(HTTPChannel):  # type: ignore[misc]  # as above
    """A connection of a client."""

    error_task_class = _ErrorTask

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.waits_since_s = time.monotonic()
        """When the client connected, or had its last response."""

    def service(self) -> None:
        """Respond to a request."""
        super().service()
        self.waits_since_s = time.monotonic()

    def is_overdue(self) -> bool:
        """Return True if the client has sent no whole request in time, or takes no response."""
        if self.total_outbufs_len:
            return bool(time.time() - self.last_activity > SILENCE_S)  # waitress stores the time of day
        return not self.requests and time.monotonic() - self.waits_since_s > SILENCE_S


class _Waitress(TcpWSGIServer):  # type: ignore[misc]  # as above
    channel_class = _Channel

    def drop(self) -> None:
        """Close the connections that are overdue, and those beyond the bound."""
        channels = list(self.active_channels.values())
        for channel in [each for each in channels if each.is_overdue()]:
            channel.handle_close()
            channels.remove(channel)
        idle = sorted((each for each in channels if not each.requests), key=lambda each: each.waits_since_s)
        busy = [each for each in channels if each.requests]
        for channel in (idle + busy)[: max(0, len(channels) - CONNECTIONS)]:
            channel.handle_close()


class Server:
    """A server of the page on one address."""

    def __init__(self, application: Application, host: str, port: int, *, behind_https: bool) -> None:
        """Listen. Raise ``SettingsError`` if the address cannot be used."""
        waitress_log.setLevel("ERROR")  # it warns of every client that is slow
        self._application = application
        self._stopped = threading.Event()
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            own = socket.socket(family, kind, protocol)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind(address)
        except OSError as error:
            raise SettingsError("--listen", f"cannot listen on {text_of(host, port)}: {error.strerror}") from None
        self.address: tuple[str, int] = own.getsockname()[:2]
        self._map: dict[int, Any] = {}
        self._dispatcher = ThreadedTaskDispatcher()
        self._dispatcher.set_thread_count(THREADS)
        self._server = _Waitress(
            application,
            self._map,
            _sock=own,
            dispatcher=self._dispatcher,
            adj=Adjustments(
                sockets=[own],
                ident=None,
                backlog=BACKLOG,
                connection_limit=10 * CONNECTIONS,  # ours is lower, and does not stop to accept
                channel_timeout=24 * 3600,  # as above
                max_request_header_size=HEAD_BYTES,
                max_request_body_size=BODY_BYTES + 1,
                outbuf_high_watermark=1 << 20,
                clear_untrusted_proxy_headers=not behind_https,
                log_socket_errors=False,
            ),
            sockinfo=(family, kind, protocol, address),
            bind_socket=False,
        )

    def run(self) -> None:
        """Serve until ``stop`` is called."""
        threading.Thread(target=self._note, name="rudderpipe-history", daemon=True).start()
        try:
            while not self._stopped.is_set():
                wasyncore.loop(timeout=LOOK_S, use_poll=True, map=self._map, count=1)
                self._server.drop()
        finally:
            self._dispatcher.shutdown(timeout=STOP_S)
            wasyncore.close_all(self._map)

    def stop(self) -> None:
        """End ``run``. Any thread may call it."""
        self._stopped.set()
        self._server.pull_trigger()

    def _note(self) -> None:
        while not self._stopped.is_set():
            self._application.note()
            self._stopped.wait(INTERVAL_S)
