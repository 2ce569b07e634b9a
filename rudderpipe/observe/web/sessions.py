"""The sessions of people who have given the token. They are in memory only, and end with the process."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
from collections import deque

from rudderpipe.observe.web.request import Refused
from rudderpipe.process.clock import Clock

SESSION_S = 12 * 3600.0
SESSIONS = 100
"""The most sessions at once. One more ends the oldest."""
WRONG_TRIES = 5
TRIES_S = 60.0
ADDRESSES = 1000
"""Of so many addresses the wrong tries are known."""


class Sessions:
    """The sessions of one process. Any thread may call every method."""

    def __init__(self, token: str, clock: Clock) -> None:
        self._token = token.encode()
        self._clock = clock
        self._lock = threading.Lock()
        self._until_s: dict[bytes, float] = {}
        """The end of each session, by the digest of its id, the oldest session first."""
        self._wrong: dict[str, deque[float]] = {}
        """The moments of the last wrong tries, by address."""

    def check(self, token: str, address: str) -> None:
        """Raise ``Refused`` if this is not the token, or if the address has had too many wrong tries."""
        network, now_s = _network(address), self._clock.monotonic_s()
        with self._lock:
            tries = self._wrong.get(network, ())
            if sum(now_s - each < TRIES_S for each in tries) >= WRONG_TRIES:
                raise Refused(429, "Too many wrong tokens came from this address; wait a minute.", Retry_After="60")
            if hmac.compare_digest(token.encode(errors="surrogatepass"), self._token):
                return
            # The address moves to the end, so that the one that is forgotten is the one with the oldest try.
            moments = self._wrong.pop(network, None) or deque(maxlen=WRONG_TRIES)
            moments.append(now_s)
            self._wrong[network] = moments
            if len(self._wrong) > ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
        raise Refused(403, "This is not the token.")

    def begin(self) -> str:
        """Return the id of a new session."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._until_s) >= SESSIONS:
                del self._until_s[next(iter(self._until_s))]
            self._until_s[_digest(session)] = self._clock.monotonic_s() + SESSION_S
        return session

    def lives(self, session: str) -> bool:
        """Return True if this is the id of a session that has not ended."""
        with self._lock:
            return self._until_s.get(_digest(session), 0.0) > self._clock.monotonic_s()

    def end(self, session: str) -> None:
        """End a session."""
        with self._lock:
            self._until_s.pop(_digest(session), None)


def _digest(session: str) -> bytes:
    """Return the digest of an id, so that how long a lookup takes says nothing about an id."""
    return hashlib.sha256(session.encode(errors="surrogatepass")).digest()


def _network(address: str) -> str:
    """Return the network of an address: the address itself, and for IPv6 the 64 bits that one host may change."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)
