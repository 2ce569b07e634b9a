"""Where Redis is: one value, from a mapping or from a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from rudderpipe.errors import SettingsError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

FILES = ("ssl_ca_file", "ssl_cert_file", "ssl_key_file")
PATHS = (*FILES, "unix_socket_path")
SECURE = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
FORMS = ("", "sentinel", "cluster")
REDIS_PORT, SENTINEL_PORT = 6379, 26379
_ALIASES = {"ssl_ca_certs": "ssl_ca_file", "ssl_certfile": "ssl_cert_file", "ssl_keyfile": "ssl_key_file"}
_IN_QUERY = ("db", "protocol", *FILES, "ssl_check_hostname", "sentinel_username", "sentinel_password")


class RedisAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where Redis is, and who we are there.

    ``unix_socket_path``, ``sentinels`` with ``service_name``, or ``cluster_nodes`` take the place of ``host`` and
    ``port``. Files are PEM; a certificate of ours may hold its key. Raises ``SettingsError`` for what contradicts.
    """

    host: str = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535)] = REDIS_PORT
    db: Annotated[int, Meta(ge=0)] = 0
    username: str | None = None
    password: str | None = None
    protocol: Annotated[int, Meta(ge=2, le=3)] | None = None
    """RESP2 or RESP3; None leaves it to redis-py."""
    ssl: bool = False
    unix_socket_path: str | None = None
    ssl_ca_file: str | None = None
    ssl_cert_file: str | None = None
    ssl_key_file: str | None = None
    ssl_check_hostname: bool = True
    sentinels: tuple[str, ...] = ()
    service_name: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    cluster_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum(map(bool, (self.unix_socket_path, self.sentinels, self.cluster_nodes))) > 1:
            raise SettingsError("redis", "must be one of unix_socket_path, sentinels and cluster_nodes")
        if bool(self.sentinels) != bool(self.service_name):
            raise SettingsError("redis", "sentinels and service_name (the master's name there) belong together")
        if self.cluster_nodes and self.db:
            raise SettingsError("redis", "a cluster has no database but 0")
        if not self.ssl and any(getattr(self, name) for name in FILES):
            raise SettingsError("redis", "has certificates, but ssl is not on (rediss:// in a URL)")
        if self.ssl and self.unix_socket_path:
            raise SettingsError("redis", "a unix socket has no ssl")
        for node in (*self.sentinels, *self.cluster_nodes):
            host_and_port(node, REDIS_PORT)

    def __repr__(self) -> str:
        return f"RedisAddress({self.place})"

    @property
    def place(self) -> str:
        """For people and for the pipe's name: no user, no password."""
        if self.sentinels:
            return f"{','.join(self.sentinels)}/{self.service_name}/{self.db}"
        where = ",".join(self.cluster_nodes) or self.unix_socket_path or f"{self.host}:{self.port}"
        return f"{where}/{self.db}"


def host_and_port(node: str, default_port: int) -> tuple[str, int]:
    """Of ``host``, ``host:port`` or ``[v6]:port``. Raises ``SettingsError``."""
    from urllib.parse import urlsplit  # here, as loading it takes milliseconds, and not everybody has a queue

    try:
        url = urlsplit(f"//{node}")
        host, port = url.hostname, url.port or default_port
    except ValueError:
        host = None
    if not host or url.username is not None:
        raise SettingsError("redis", "names a node that is not host:port")
    return host, port


def from_url(text: str) -> RedisAddress:
    """``redis://[user[:password]@]host[:port][/db]``, ``rediss://`` for TLS, ``unix://[user[:password]@]/path[?db=1]``;
    ``redis+sentinel://…@host:port,host:port/service[/db]`` and ``redis+cluster://…@host:port,host:port``.

    The query may hold ``db``, ``protocol`` (2 or 3), ``ssl_check_hostname``, ``sentinel_username``,
    ``sentinel_password``, and as absolute paths ``ssl_ca_file``, ``ssl_cert_file`` and ``ssl_key_file``. Raises
    ``SettingsError``, without the URL.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit  # as above

    try:
        url = urlsplit(text)
        query = [
            (_ALIASES.get(name, name), value) for name, value in parse_qsl(url.query, strict_parsing=bool(url.query))
        ]
    except ValueError:
        raise SettingsError("redis", "is not a URL") from None
    values: dict[str, Any] = {}
    for name, value in query:
        if name not in _IN_QUERY:
            raise SettingsError("redis", f"the URL's query may hold {', '.join(_IN_QUERY)}, and nothing else")
        if name in FILES and not value.startswith("/"):
            raise SettingsError("redis", f"{name} in a URL must be an absolute path")
        values[name] = value
    scheme, _, form = url.scheme.partition("+")
    if scheme == "unix" and not form:
        values |= {"unix_socket_path": unquote(url.path)}
        if not url.path:
            raise SettingsError("redis", "names no socket")
    elif scheme in SECURE and form in FORMS:
        values |= {"ssl": SECURE[scheme], **_nodes(url, form)}
    else:
        raise SettingsError(
            "redis", "must start with redis://, rediss:// or unix://, or with +sentinel or +cluster in it"
        )
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    values |= {name: unquote(value) for name, value in (("username", user), ("password", password)) if value}
    try:
        return msgspec.convert(values, RedisAddress, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError("redis", str(error).replace(" - at `$.", ": ").rstrip("`")) from None


def _nodes(url: SplitResult, form: str) -> dict[str, Any]:
    from urllib.parse import unquote  # as above

    nodes = [node for node in url.netloc.rpartition("@")[2].split(",") if node]
    parts = [unquote(part) for part in url.path.split("/") if part]
    values: dict[str, Any] = {}
    if form == "sentinel":
        if not nodes or not parts:
            raise SettingsError("redis", "must name sentinels and the service: redis+sentinel://host:port,…/service")
        values |= {"sentinels": nodes, "service_name": parts.pop(0)}
    elif form == "cluster":
        if not nodes:
            raise SettingsError("redis", "names no node")
        values |= {"cluster_nodes": nodes}
    elif nodes:
        values["host"], values["port"] = host_and_port(nodes[0], REDIS_PORT) if len(nodes) == 1 else ("", 0)
    if len(nodes) > 1 and not form:
        raise SettingsError("redis", "names several hosts: say redis+sentinel:// or redis+cluster://")
    if len(parts) > 1 or not all(part.isdigit() for part in parts):
        raise SettingsError("redis", "the path must be the number of a database")
    return values | ({"db": parts[0]} if parts else {})
