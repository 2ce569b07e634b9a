"""Where an answer of 3xx sends us, and whether we may go there with the write key."""

from __future__ import annotations

from urllib.parse import quote, urljoin, urlsplit

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
