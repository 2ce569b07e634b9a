"""The one form of a data plane's and a Redis' address, and the pipes' names that are derived from both.

Two spellings of one place must give one name, or two processes of one application would use two rings. All functions
are pure: a name depends on the settings alone, never on DNS or on the file system.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from rudderpipe.settings.redis_url import REDIS_PORT, SENTINEL_PORT, RedisAddress, host_and_port

USUAL_PATH = "/v1/batch"
_PORTS = {"http": 80, "https": 443}
_LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of this host, the usual one first."""


def endpoint(data_plane_url: str, path: str) -> str:
    """Return the URL that batches are posted to, in its normal form.

    Scheme and host are in lower case, the default port and slashes at the end are left out, and ``path`` is added
    unless the URL ends in it already. Empty without a URL.
    """
    if not data_plane_url:
        return ""
    from urllib.parse import urlsplit  # here, as loading it takes milliseconds that not every process has to spend

    url = urlsplit(data_plane_url)
    scheme, host = url.scheme.lower(), _bracketed((url.hostname or "").lower())
    port = "" if url.port in (None, _PORTS.get(scheme)) else f":{url.port}"
    before = url.path.rstrip("/")
    tail = path.rstrip("/")
    if tail and before.endswith(tail):
        before = before[: -len(tail)].rstrip("/")
    return f"{scheme}://{host}{port}{before}{path}"


def redis(address: RedisAddress) -> str:
    """Return where Redis is, in its normal form: no user, no password."""
    if address.sentinels:
        nodes = sorted(_node(node, SENTINEL_PORT) for node in address.sentinels)
        return f"{','.join(nodes)}/{address.service_name}/{address.db}"
    if address.cluster_nodes:
        return f"{','.join(sorted(_node(node, REDIS_PORT) for node in address.cluster_nodes))}/{address.db}"
    if address.unix_socket_path:
        return f"{posixpath.normpath(address.unix_socket_path)}/{address.db}"
    return f"{_host(address.host)}:{address.port}/{address.db}"


def pipe(write_key: str, endpoint: str, queue: tuple[str, ...]) -> str:
    """Return the name of the pipe from this source to this endpoint; reveals neither.

    ``queue`` is Redis' place, the queue's name and the prefix, or nothing in direct mode.
    """
    before = endpoint.removesuffix(USUAL_PATH)
    # The usual path is no part of the name, as in earlier versions; another path is marked by an empty part.
    return _hashed([write_key, before, *([""] if before == endpoint and endpoint else []), *queue])


def former_pipes(
    write_key: str, data_plane_url: str, endpoint: str, queue: tuple[str, ...], given_place: str
) -> list[str]:
    """Return what the first layout's versions may have called this pipe: they took the settings as they were given."""
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
    """Yield the usual ways to write where Redis is."""
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
    import hashlib  # here, as loading it takes milliseconds that not every process has to spend

    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
