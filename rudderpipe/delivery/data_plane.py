"""The POST itself: one attempt, redirects included, and what its answer means."""

from __future__ import annotations

import time
from base64 import b64encode
from urllib.parse import quote, urljoin, urlsplit

from rudderpipe import log_text
from rudderpipe._version import USER_AGENT
from rudderpipe.delivery import outcome, request
from rudderpipe.delivery import outcome as retry_after
from rudderpipe.delivery.connection import PORTS, Obstacle, Wire
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.delivery.response import Answer, NoAnswer
from rudderpipe.settings import Settings

REPOSTED = (307, 308)
MAX_HOPS = 3

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def in_ascii(url: str, encoding: str = "utf-8") -> str:
    """Return the URL as a request's head may hold it: a name in its IDNA form, all else percent-encoded."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host.isascii():
        try:
            name = host.encode("idna").decode()
        except UnicodeError:
            return url  # no name of a host: the connection fails, and says so
        parts = parts._replace(netloc=f"{name}:{parts.port}" if parts.port else name)
    return quote(parts.geturl().encode(encoding), safe=_PRINTABLE)


def follow(url: str, location: str) -> tuple[str, str]:
    """(the next URL, "") or ("", why not): the write key goes to no other host, and never from https to http."""
    try:
        there, here = urlsplit(urljoin(url, location)), urlsplit(url)
        _ = there.port
    except ValueError:
        return "", "a redirect to what is no URL"
    if not location or there.scheme not in ("http", "https") or not there.hostname:
        return "", "a redirect to what is no URL"
    if there.hostname != here.hostname:
        return "", f"a redirect to another host, {there.hostname}: correct data_plane_url"
    if here.scheme == "https" and there.scheme == "http":
        return "", "a redirect from https to http"
    # A header's bytes are read as Latin-1, so that encoding gives back what the server wrote.
    return in_ascii(there._replace(netloc=there.netloc.rpartition("@")[2], fragment="").geturl(), "latin-1"), ""


def refusal(url: str, location: str) -> str:
    """What to say of an answer that would have us fetch something else with GET."""
    try:
        host = urlsplit(urljoin(url, location)).hostname
    except ValueError:
        host = None
    return f"a redirect to {host or 'nowhere'} that drops the events: correct data_plane_url"


logger = log_text.logger("rudderpipe.delivery")


class DataPlane:
    """One data plane, over one kept connection."""

    def __init__(self, settings: Settings) -> None:
        self._url = in_ascii(settings.endpoint)
        self._settings = settings
        self._wires: dict[tuple[str, str, int], Wire] = {}
        """The first is the data plane's; the others, a few, are those of the last places that redirects led to."""
        self._heads: dict[tuple[str, str, bool], bytes] = {}
        self._packs = settings.gzip
        """False once gzip was refused, and the same request without it was not."""
        self._aborted = False

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        """One attempt, within ``connect_timeout_s`` and ``timeout_s`` together.

        Never raises for what host, proxy, network or server do; only what a signal handler raises comes out.
        """
        try:
            return self._post(body, write_key, timeout_s or self._settings.timeout_s)
        except NoAnswer as error:
            return outcome.of_failure("stopped" if self._aborted else str(error))
        except Obstacle as error:
            return outcome.of_obstacle(str(error))
        except (OSError, ValueError, MemoryError) as error:  # the events are not to blame
            return outcome.of_obstacle(f"no request could be made: {type(error).__name__}")

    def _post(self, body: bytes, write_key: str, timeout_s: float) -> Outcome:
        if not self._packs:
            return self._send(body, write_key, timeout_s, packed=False)
        packed = self._send(request.gzip(body), write_key, timeout_s, packed=True)
        if not outcome.refuses_gzip(packed):
            return packed
        plain = self._send(body, write_key, timeout_s, packed=False)
        if outcome.refuses_gzip(plain):
            return outcome.of_refusal(plain.status, f"refused with gzip and without it: {plain.reason}")
        if plain.kind in ("delivered", "refused"):
            self._packs = False
            logger.warning("requests are sent without gzip from now on, as it was refused: %s", packed.reason)
        return plain

    def _send(self, body: bytes, write_key: str, timeout_s: float, *, packed: bool) -> Outcome:
        url = self._url
        until_s = time.monotonic() + self._settings.connect_timeout_s + timeout_s
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
        if (
            answer.status == 407 and self._settings.proxy_url and url.startswith("http:")
        ):  # through CONNECT it is no proxy's
            raise Obstacle("the proxy refuses user and password of proxy_url or HTTP_PROXY (status 407)")
        asked_s = None
        if "retry-after" in answer.headers:
            asked_s = retry_after.seconds(answer.headers["retry-after"], int(time.time() * 1000))
        return outcome.of_answer(answer.status, answer.body, asked_s)

    def _exchange(
        self, url: str, body: bytes, write_key: str, packed: bool, timeout_s: float, until_s: float
    ) -> Answer:
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
                self._heads.clear()  # write keys come from the queue, where anybody may have put any
            self._heads[url, write_key, packed] = head
        if self._aborted:
            raise NoAnswer("stopped", begun=True)
        return wire.exchange(head + b"%d\r\n\r\n" % len(body), body, timeout_s, until_s)

    def abort(self) -> None:
        """From any thread: end the attempt under way, and make no other."""
        self._aborted = True
        for wire in list(self._wires.values()):
            wire.abort()

    def close(self) -> None:
        """Close the connections."""
        for wire in self._wires.values():
            wire.close()
