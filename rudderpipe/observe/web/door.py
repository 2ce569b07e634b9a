"""Who may do what: the door of the page's own server, and the one of a page that an application has mounted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from rudderpipe.observe.web.request import Refused, Request
from rudderpipe.observe.web.sessions import SESSION_S, Sessions

Access = Literal["none", "read", "all"]
LEVELS: tuple[Access, ...] = ("none", "read", "all")
COOKIES = 10
"""So many cookies of our name are looked at, since another program on the host may have set one of that name too."""
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Visitor(NamedTuple):
    """The sender of a request: what it may do, and who and where it is, for the log."""

    access: Access
    who: str = "-"
    address: str = "-"
    session: str = ""
    has_token: bool = False
    """True if the request itself has the token, which no browser adds to a request of another site."""


class Door(Protocol):
    """What the application asks about a request. Every method may raise ``Refused``."""

    can_log_in: bool

    def visitor(self, request: Request) -> Visitor:
        """Return the sender of a request."""

    def log_in(self, request: Request, token: str) -> str:
        """Return the header Set-Cookie of a new session."""

    def log_out(self, request: Request, visitor: Visitor) -> str:
        """End the session of a visitor, and return the header Set-Cookie that removes the cookie."""


class MountedDoor:
    """The door of a page behind an application's own login. The application checks the host and the session."""

    can_log_in = False

    def __init__(self, access: Callable[[Any], Access]) -> None:
        self._access = access

    def visitor(self, request: Request) -> Visitor:
        """Return the sender, with the access that the application gives, and its name in ``REMOTE_USER``."""
        access = self._access(request.environ)
        who = str(request.environ.get("REMOTE_USER") or "-")[:100]
        # Fails closed: what the application returns may be anything.
        return Visitor(access if access in LEVELS else "none", who, str(request.environ.get("REMOTE_ADDR", "-"))[:100])

    def log_in(self, request: Request, token: str) -> str:  # noqa: ARG002  # as in the protocol
        """Refuse, because the application has the login."""
        raise Refused(404, "There is no such page.")

    def log_out(self, request: Request, visitor: Visitor) -> str:  # noqa: ARG002  # as in the protocol
        """Refuse, as above."""
        raise Refused(404, "There is no such page.")


class OwnDoor:
    """The door of ``rudderpipe web``.

    ``hosts`` are the names, beside those of loopback, under which the page may be called. ``strangers`` is the access
    of a visitor without a session.
    """

    def __init__(
        self, sessions: Sessions | None, hosts: Collection[str], strangers: Access, *, behind_https: bool
    ) -> None:
        self.can_log_in = sessions is not None
        self._sessions = sessions
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self._strangers = strangers
        self._behind_https = behind_https

    def visitor(self, request: Request) -> Visitor:
        """Return the sender. Raise ``Refused`` for a host that is not ours, and for a wrong token."""
        self._check_host(request.header("host") or "")
        address = self._address(request)
        if self._sessions is None:
            return Visitor(self._strangers, address=address)
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            self._sessions.check(token.strip(), address)
            return Visitor("all", "token", address, has_token=True)
        for session in _cookies(request):
            if self._sessions.lives(session):
                return Visitor("all", session[:8], address, session)
        return Visitor(self._strangers, address=address)

    def log_in(self, request: Request, token: str) -> str:
        """Return the header Set-Cookie of a new session. Raise ``Refused`` for a wrong token."""
        if self._sessions is None:
            raise Refused(404, "There is no such page.")
        self._sessions.check(token, self._address(request))
        return self._cookie(request, self._sessions.begin(), int(SESSION_S))

    def log_out(self, request: Request, visitor: Visitor) -> str:
        """End the session of a visitor, and return the header Set-Cookie that removes the cookie."""
        if self._sessions is None:
            raise Refused(404, "There is no such page.")
        self._sessions.end(visitor.session)
        return self._cookie(request, "", 0)

    def _cookie(self, request: Request, session: str, age_s: int) -> str:
        secure = "; Secure" if self._behind_https else ""
        path = f"{request.root}/"
        return f"{_cookie_name(request)}={session}; Path={path}; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}"

    def _check_host(self, host: str) -> None:
        found = _HOST.fullmatch(host)
        name = found[1].lower().strip("[]") if found else ""
        if name != "localhost" and name not in self._hosts and not is_loopback(name):
            raise Refused(421, "This host name is not allowed; start the page with --allow-host to allow it.")

    def _address(self, request: Request) -> str:
        """Return the address of the client: what the proxy in front of us says, if there is one."""
        address = str(request.environ.get("REMOTE_ADDR", ""))
        if self._behind_https:
            last = (request.header("x-forwarded-for") or "").rpartition(",")[2].strip()
            try:
                return str(ipaddress.ip_address(last))
            except ValueError:
                pass  # the proxy does not say it
        return address


def is_loopback(name: str) -> bool:
    """Return True for an address of this host's loopback."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_origin(request: Request) -> None:
    """Raise ``Refused`` unless a request comes from our own page, so that no other site can act for a visitor."""
    site, origin = request.header("sec-fetch-site"), request.header("origin")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        host = (request.header("host") or "").lower()
        is_ours = bool(host) and _host_of(origin or "") == host
    if not is_ours:
        raise Refused(403, "The request does not come from this page; a script must send the token in Authorization.")


def _host_of(origin: str) -> str:
    """Return the host and port of an origin, in lower case; empty if it is none."""
    try:
        found = urlsplit(origin)
    except ValueError:
        return ""
    return found.netloc.lower() if found.scheme in ("http", "https") and not found.path else ""


def _cookie_name(request: Request) -> str:
    """Return the name of our cookie. It has the port, because browsers send a cookie to every port of a host."""
    return f"rudderpipe_{request.environ.get('SERVER_PORT', '')}"


def _cookies(request: Request) -> list[str]:
    """Return the values of the cookies of our name."""
    ours = _cookie_name(request)
    pairs = (pair.strip().partition("=") for pair in (request.header("cookie") or "").split(";"))
    return [value for name, _, value in pairs if name == ours and value][:COOKIES]
