"""The POST itself: one attempt, redirects included, and what its answer means."""

from __future__ import annotations

import socket
import time
from base64 import b64encode
from urllib.parse import urlsplit

from rudderpipe.delivery import outcome, redirect, request, retry_after
from rudderpipe.delivery.answer import Answer, NoAnswer
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.delivery.wire import PORTS, Wire
from rudderpipe.settings import Settings
from rudderpipe.version import USER_AGENT


class DataPlane:
    """One data plane, over one kept connection."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.endpoint
        self._settings = settings
        self._wires: dict[tuple[str, str, int], Wire] = {}
        """One, and one more for each place that redirects lead to."""
        self._heads: dict[tuple[str, str], bytes] = {}
        self._aborted = False

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        """One attempt. Never raises for what the network or the server does."""
        if self._settings.gzip:
            body = request.gzip(body)
        url = self._url
        try:
            for _ in range(1 + redirect.MAX_HOPS):
                answer = self._exchange(url, body, write_key, timeout_s or self._settings.timeout_s)
                if not 300 <= answer.status < 400:
                    break
                location = answer.headers.get("location", "")
                if answer.status not in redirect.REPOSTED:
                    return outcome.of_refusal(answer.status, redirect.refusal(url, location))
                url, why_not = redirect.follow(url, location)
                if why_not:
                    return outcome.of_refusal(answer.status, why_not)
            else:
                return outcome.of_refusal(answer.status, "too many redirects: correct data_plane_url")
        except NoAnswer as error:
            return outcome.of_failure("stopped" if self._aborted else str(error))
        asked_s = None
        if "retry-after" in answer.headers:
            asked_s = retry_after.seconds(answer.headers["retry-after"], int(time.time() * 1000))
        return outcome.of_answer(answer.status, answer.body, asked_s)

    def _exchange(self, url: str, body: bytes, write_key: str, timeout_s: float) -> Answer:
        parts = urlsplit(url)
        where = parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme]
        wire = self._wires.get(where)
        if wire is None:
            wire = self._wires[where] = Wire(*where, self._settings)
        head = self._heads.get((url, write_key))
        if head is None:
            lines = {
                "host": parts.netloc.rpartition("@")[2],
                "authorization": f"Basic {b64encode(f'{write_key}:'.encode()).decode()}",
                "content-type": "application/json",
                "user-agent": USER_AGENT,
                **({"content-encoding": "gzip"} if self._settings.gzip else {}),
                **({} if parts.scheme == "https" else wire.proxy_headers()),
            }
            text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            head = f"POST {wire.target(parts)} HTTP/1.1\r\n{text}content-length: ".encode()
            if len(self._heads) >= 100:
                self._heads.clear()  # write keys come from the queue, where anybody may have put any
            self._heads[url, write_key] = head
        if self._aborted:
            raise NoAnswer("stopped", begun=True)
        return wire.exchange(head + b"%d\r\n\r\n" % len(body), body, timeout_s)

    def abort(self) -> None:
        """From any thread: end the attempt under way, and make no other.

        A connection that is being made goes on for ``connect_timeout_s`` at the most.
        """
        self._aborted = True
        for wire in list(self._wires.values()):
            if wire.sock is not None:
                try:
                    socket.socket.shutdown(wire.sock, socket.SHUT_RDWR)  # not TLS's own, which would wait
                except OSError:
                    pass  # closed already

    def close(self) -> None:
        """Close the connections."""
        for wire in self._wires.values():
            wire.close()
