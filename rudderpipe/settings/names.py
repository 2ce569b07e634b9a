"""The normal form of the addresses of a data plane and of Redis, and the pipes' names, which are derived from both.

Two spellings of one address must give one name; otherwise two processes of one application would use two rings. All
functions are pure: a name depends only on the settings, never on DNS or on the file system.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from rudderpipe.settings.redis_url import REDIS_PORT, SENTINEL_PORT, RedisAddress, host_and_port

USUAL_PATH = "/v1/batch"
_PORTS = {"http": 80, "https": 443}
_LOCAL = ("localhost", "127.0.0.1", "::1")
"""The names of this host; the first one is the normal form."""


def endpoint(data_plane_url: str, path: str) -> str:
    """Return the URL that batches are posted to, in its normal form.

    Scheme and host are in lower case, the default port and final slashes are removed, and ``path`` is appended unless
    the URL ends with it already. The result is empty without a URL.
    """
    if not data_plane_url:
        return ""
    from urllib.parse import urlsplit  # here, because loading it takes milliseconds, and not every process needs it

    url = urlsplit(data_plane_url)
    scheme, host = url.scheme.lower(), _bracketed((url.hostname or "").lower())
    port = "" if url.port in (None, _PORTS.get(scheme)) else f":{url.port}"
    before = url.path.rstrip("/")
    tail = path.rstrip("/")
    if tail and before.endswith(tail):
        before = before[: -len(tail)].rstrip("/")
    return f"{scheme}://{host}{port}{before}{path}"


def redis(address: RedisAddress) -> str:
    """Return the address of Redis in its normal form, without user and password."""
    if address.sentinels:
        nodes = sorted(_node(node, SENTINEL_PORT) for node in address.sentinels)
        return f"{','.join(nodes)}/{address.service_name}/{address.db}"
    if address.cluster_nodes:
        return f"{','.join(sorted(_node(node, REDIS_PORT) for node in address.cluster_nodes))}/{address.db}"
    if address.unix_socket_path:
        return f"{posixpath.normpath(address.unix_socket_path)}/{address.db}"
    return f"{_host(address.host)}:{address.port}/{address.db}"


def pipe(write_key: str, endpoint: str, queue: tuple[str, ...]) -> str:
    """Return the name of the pipe from this source to this endpoint; the name reveals neither.

    ``queue`` is the address of Redis, the queue's name and the prefix. It is empty in direct mode.
    """
    before = endpoint.removesuffix(USUAL_PATH)
    # The usual path is no part of the name, as in earlier versions. An empty part marks any other path.
    return _hashed([write_key, before, *([""] if before == endpoint and endpoint else []), *queue])


def former_pipes(
    write_key: str, data_plane_url: str, endpoint: str, queue: tuple[str, ...], given_place: str
) -> list[str]:
    """Return the names that versions with the first layout may have used, because they hashed unnormalised settings."""
    urls = dict.fromkeys((data_plane_url.rstrip("/"), *_spellings_of_url(endpoint)))
    places: list[tuple[str, ...]] = [()]
    if queue:
        places = [(place, *queue[1:]) for place in dict.fromkeys((given_place, *_spellings_of_place(queue[0])))]
    return [_hashed([write_key, url, *place]) for url in urls for place in places]


def _spellings_of_url(endpoint: str) -> Iterator[str]:
    """Yield the usual ways to write the URL of an endpoint."""
    before = endpoint.removesuffix(USUAL_PATH)
    scheme, _, rest = before.partition("://")
    host, slash, path = rest.partition("/")
    yield before
    if before.endswith(host) and ":" not in host.rpartition("]")[2]:
        yield f"{scheme}://{host}:{_PORTS.get(scheme, 0)}{slash}{path}"


def _spellings_of_place(place: str) -> Iterator[str]:
    """Yield the usual ways to write an address of Redis."""
    yield place
    host, colon, rest = place.partition(":")
    if host == _LOCAL[0]:
        yield from (f"{other}{colon}{rest}" for other in _LOCAL[1:])


def _node(node: str, default_port: int) -> str:
    host, port = host_and_port(node, default_port)
    return f"{_host(host)}:{port}"


def _host(host: str) -> str:
    host = host.lower().strip("[]")
    return _LOCAL[0] if host in _LOCAL else _bracketed(host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _hashed(parts: list[str]) -> str:
    import hashlib  # here, because loading it takes milliseconds, and not every process needs it

    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
