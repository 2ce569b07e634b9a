"""One POST to the data plane, with its redirects, and the outcome of its response."""

from __future__ import annotations

import time
from base64 import b64encode
from urllib.parse import quote, urljoin, urlsplit

from rudderpipe import log_text
from rudderpipe._version import USER_AGENT
from rudderpipe.delivery import outcome, request
from rudderpipe.delivery.connection import PORTS, Obstacle, Wire
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.delivery.response import NoResponse, Response
from rudderpipe.settings import Settings

REPOSTED = (307, 308)
MAX_HOPS = 3

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def in_ascii(url: str, encoding: str = "utf-8") -> str:
    """Return the URL in ASCII, as a request's head needs it: the host in IDNA form, the rest percent-encoded."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host.isascii():
        try:
            name = host.encode("idna").decode()
        except UnicodeError:
            return url  # not a valid host name: connecting fails with that reason
        parts = parts._replace(netloc=f"{name}:{parts.port}" if parts.port else name)
    return quote(parts.geturl().encode(encoding), safe=_PRINTABLE)


def follow(url: str, location: str) -> tuple[str, str]:
    """Return (the next URL, ""), or ("", the reason) if the redirect must not be followed.

    The write key is never sent to another host, and never from https to http.
    """
    try:
        there, here = urlsplit(urljoin(url, location)), urlsplit(url)
        _ = there.port
    except ValueError:
        return "", "a redirect without a valid http or https URL"
    if not location or there.scheme not in ("http", "https") or not there.hostname:
        return "", "a redirect without a valid http or https URL"
    if there.hostname != here.hostname:
        return "", f"a redirect to another host, {there.hostname}: correct data_plane_url"
    if here.scheme == "https" and there.scheme == "http":
        return "", "a redirect from https to http"
    # A header is decoded as Latin-1, so encoding it as Latin-1 restores the bytes that the server sent.
    return in_ascii(there._replace(netloc=there.netloc.rpartition("@")[2], fragment="").geturl(), "latin-1"), ""


def refusal(url: str, location: str) -> str:
    """Return the reason for refusing a redirect that would turn the POST into a GET without the events."""
    try:
        host = urlsplit(urljoin(url, location)).hostname
    except ValueError:
        host = None
    return f"a redirect to {host or 'nowhere'} that drops the events: correct data_plane_url"


logger = log_text.logger("rudderpipe.delivery")


class DataPlane:
    """A data plane, reached over one kept-alive connection."""

    def __init__(self, settings: Settings) -> None:
        self._url = in_ascii(settings.endpoint)
        self._settings = settings
        self._wires: dict[tuple[str, str, int], Wire] = {}
        """The first connection is to the data plane; the other few are to the last targets of redirects."""
        self._heads: dict[tuple[str, str, bool], bytes] = {}
        self._packs = settings.gzip
        """False once the server refused a request with gzip, unless it refused the same request without gzip, too."""
        self._aborted = False
        self.plain_bytes = self.sent_bytes = 0
        """The bytes of all bodies that were sent, before and after they were packed. Only attempts count them."""

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        """Make one attempt, within ``connect_timeout_s`` and ``timeout_s`` together, and return its outcome.

        No error of the host, the proxy, the network or the server is raised; only exceptions of signal handlers are.
        """
        try:
            return self._post(body, write_key, timeout_s or self._settings.timeout_s)
        except NoResponse as error:
            found = outcome.of_failure(str(error), error.cause)
        except Obstacle as error:
            found = outcome.of_obstacle(str(error))
        except (OSError, ValueError, MemoryError) as error:  # the events did not cause this
            found = outcome.of_obstacle(f"the request could not be made: {type(error).__name__}")
        return outcome.STOPPED if self._aborted else found

    def _post(self, body: bytes, write_key: str, timeout_s: float) -> Outcome:
        until_s = time.monotonic() + self._settings.connect_timeout_s + timeout_s
        self.plain_bytes += len(body)
        if not self._packs:
            return self._send(body, write_key, timeout_s, until_s, packed=False)
        packed = self._send(request.gzip(body), write_key, timeout_s, until_s, packed=True)
        if not outcome.refuses_gzip(packed):
            return packed
        # Order: before the second request. If too little time is left for it, the next attempt has the whole time.
        self._packs = False
        try:
            plain = self._send(body, write_key, timeout_s, until_s, packed=False)
            self._packs = outcome.refuses_gzip(plain)
        finally:
            if not self._packs:
                logger.warning("gzip was refused, requests are sent without gzip from now on reason=%s", packed.reason)
        if self._packs:
            return outcome.of_refusal(plain.status, f"refused with gzip and without it: {plain.reason}")
        return plain

    def _send(self, body: bytes, write_key: str, timeout_s: float, until_s: float, *, packed: bool) -> Outcome:
        url = self._url
        for _ in range(1 + MAX_HOPS):
            answer = self._exchange(url, body, write_key, packed, timeout_s, until_s)
            if not 300 <= answer.status < 400:
                break
            location = answer.headers.get("location", "")
            if answer.status not in REPOSTED:
                return outcome.of_refusal(answer.status, refusal(url, location))
            url, why_not = follow(url, location)
            if why_not:
                return outcome.of_refusal(answer.status, why_not)
        else:
            return outcome.of_refusal(answer.status, "too many redirects: correct data_plane_url")
        # For an https URL a 407 does not come from the proxy, because the proxy cannot write into the tunnel.
        if answer.status == 407 and self._settings.proxy_url and url.startswith("http:"):
            raise Obstacle("the proxy refuses the user and password of proxy_url or HTTP_PROXY (status 407)")
        asked_s = None
        if "retry-after" in answer.headers:
            asked_s = outcome.asked_seconds(answer.headers["retry-after"], int(time.time() * 1000))
        return outcome.of_answer(answer.status, answer.body, asked_s)

    def _exchange(
        self, url: str, body: bytes, write_key: str, packed: bool, timeout_s: float, until_s: float
    ) -> Response:
        parts = urlsplit(url)
        where = parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme]
        wire = self._wires.get(where)
        if wire is None:
            wire = self._wires[where] = Wire(*where, self._settings)
            if len(self._wires) > 1 + MAX_HOPS:
                _, oldest, *_ = self._wires
                self._wires.pop(oldest).close()
        head = self._heads.get((url, write_key, packed))
        if head is None:
            lines = {
                "host": parts.netloc.rpartition("@")[2],
                "authorization": f"Basic {b64encode(f'{write_key}:'.encode()).decode()}",
                "content-type": "application/json",
                "user-agent": USER_AGENT,
                **({"content-encoding": "gzip"} if packed else {}),
                **wire.proxy_headers(),
            }
            text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            head = f"POST {wire.target(parts)} HTTP/1.1\r\n{text}content-length: ".encode()
            if len(self._heads) >= 100:
                self._heads.clear()  # bounded, because jobs of other programs may hold any number of write keys
            self._heads[url, write_key, packed] = head
        if self._aborted:
            raise NoResponse("stopped", begun=True)
        self.sent_bytes += len(body)
        return wire.exchange(head + b"%d\r\n\r\n" % len(body), body, timeout_s, until_s)

    def abort(self) -> None:
        """End the attempt under way and prevent every further attempt. Any thread may call this."""
        self._aborted = True
        for wire in list(self._wires.values()):
            wire.abort()

    def close(self) -> None:
        """Close the connections."""
        for wire in self._wires.values():
            wire.close()
