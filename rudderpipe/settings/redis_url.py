"""The address of Redis as one value, from a mapping or from a URL."""

from __future__ import annotations

import re
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
_NEXT_URL = re.compile(r"\s+(?=[a-z+]+://)")
_IN_QUERY = ("db", "protocol", *FILES, "ssl_check_hostname", "sentinel_username", "sentinel_password")


class RedisAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The address of Redis, and the credentials to use there.

    ``unix_socket_path``, ``sentinels`` with ``service_name``, or ``cluster_nodes`` replace ``host`` and ``port``. Files
    are PEM; the file of the client's certificate may contain its key. The constructor raises ``SettingsError`` for
    fields that contradict each other.
    """

    host: str = "localhost"
    """The host name or the address."""
    port: Annotated[int, Meta(ge=1, le=65535)] = REDIS_PORT
    """From 1 to 65535."""
    db: Annotated[int, Meta(ge=0)] = 0
    """The number of the database, from 0."""
    username: str | None = None
    """The user of Redis; None for its default user."""
    password: str | None = None
    """The password of that user."""
    protocol: Annotated[int, Meta(ge=2, le=3)] | None = None
    """2 for RESP2, 3 for RESP3; None for redis-py's default."""
    ssl: bool = False
    """Whether to use TLS."""
    unix_socket_path: str | None = None
    """The socket of a Redis on this host."""
    ssl_ca_file: str | None = None
    """The certificates to trust; None for those of the system."""
    ssl_cert_file: str | None = None
    """The certificate of the client."""
    ssl_key_file: str | None = None
    """The key of the client's certificate."""
    ssl_check_hostname: bool = True
    """Whether the certificate of Redis must name the host."""
    sentinels: tuple[str, ...] = ()
    """The sentinels, each ``host`` or ``host:port`` (26379 by default)."""
    service_name: str | None = None
    """The name under which the sentinels know the master."""
    sentinel_username: str | None = None
    """The user of the sentinels."""
    sentinel_password: str | None = None
    """The password of that user."""
    cluster_nodes: tuple[str, ...] = ()
    """Nodes of a Redis Cluster, each ``host`` or ``host:port``; one that responds is enough."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.unix_socket_path, self.sentinels, self.cluster_nodes))) > 1:
            raise SettingsError("redis", "must have at most one of unix_socket_path, sentinels and cluster_nodes")
        if bool(self.sentinels) != bool(self.service_name):
            raise SettingsError("redis", "must have both or neither of sentinels and service_name (the master's name)")
        if self.cluster_nodes and self.db:
            raise SettingsError("redis", "db must be 0, because a cluster has only database 0")
        if not self.ssl and any(getattr(self, name) for name in FILES):
            raise SettingsError("redis", "has certificates, but ssl is off; set ssl, or use rediss:// in a URL")
        if self.ssl and self.unix_socket_path:
            raise SettingsError("redis", "ssl cannot be used with unix_socket_path")
        for node in (*self.sentinels, *self.cluster_nodes):
            host_and_port(node, REDIS_PORT)

    def __repr__(self) -> str:
        return f"RedisAddress({self.place})"

    @property
    def place(self) -> str:
        """The address as text, without user and password, for logs and for earlier versions' names of the pipe."""
        if self.sentinels:
            return f"{','.join(self.sentinels)}/{self.service_name}/{self.db}"
        where = ",".join(self.cluster_nodes) or self.unix_socket_path or f"{self.host}:{self.port}"
        return f"{where}/{self.db}"


def host_and_port(node: str, default_port: int) -> tuple[str, int]:
    """Return host and port of ``host``, ``host:port`` or ``[v6]:port``. Raises ``SettingsError``."""
    from urllib.parse import urlsplit  # here, because loading it takes milliseconds, and not every process has a queue

    try:
        url = urlsplit(f"//{node}")
        host, port = url.hostname, url.port or default_port
    except ValueError:
        host = None
    if not host or url.username is not None:
        raise SettingsError("redis", "has a node that is not host:port")
    return host, port


def addresses(given: str | RedisAddress | tuple[str | RedisAddress, ...]) -> tuple[RedisAddress, ...]:
    """Return every address that the setting ``redis`` gives. As text, several URLs have blanks in between.

    Raises ``SettingsError``, which says which one of several addresses is wrong.
    """
    if isinstance(given, str):
        given = tuple(_NEXT_URL.split(given.strip()))
    each_given = given if isinstance(given, tuple) else (given,)
    found = []
    for number, each in enumerate(each_given, 1):
        try:
            found.append(from_url(each) if isinstance(each, str) else each)
        except SettingsError as error:
            if len(each_given) == 1:
                raise
            raise SettingsError("redis", f"address {number} of {len(each_given)}: {error.reason}") from None
    return tuple(found)


def from_url(text: str) -> RedisAddress:
    """Return the address in a URL. Raises ``SettingsError``, whose text does not contain the URL.

    The forms are ``redis://[user[:password]@]host[:port][/db]``, ``rediss://`` for TLS,
    ``unix://[user[:password]@]/path[?db=1]``, ``redis+sentinel://…@host:port,host:port/service[/db]`` and
    ``redis+cluster://…@host:port,host:port``. The query may contain ``db``, ``protocol`` (2 or 3),
    ``ssl_check_hostname``, ``sentinel_username``, ``sentinel_password``, and as absolute paths ``ssl_ca_file``,
    ``ssl_cert_file`` and ``ssl_key_file``.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit  # same reason as in host_and_port

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
            raise SettingsError("redis", f"the URL's query may contain only {', '.join(_IN_QUERY)}")
        if name in FILES and not value.startswith("/"):
            raise SettingsError("redis", f"{name} in a URL must be an absolute path")
        values[name] = value
    scheme, _, form = url.scheme.partition("+")
    if scheme == "unix" and not form:
        values |= {"unix_socket_path": unquote(url.path)}
        if not url.path:
            raise SettingsError("redis", "must name a socket, as in unix:///path")
    elif scheme in SECURE and form in FORMS:
        values |= {"ssl": SECURE[scheme], **_nodes(url, form)}
    else:
        raise SettingsError(
            "redis", "must start with redis://, rediss:// or unix://, or have +sentinel or +cluster before ://"
        )
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    values |= {name: unquote(value) for name, value in (("username", user), ("password", password)) if value}
    try:
        return msgspec.convert(values, RedisAddress, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError("redis", str(error).replace(" - at `$.", ": ").rstrip("`")) from None


def _nodes(url: SplitResult, form: str) -> dict[str, Any]:
    from urllib.parse import unquote  # same reason as in host_and_port

    nodes = [node for node in url.netloc.rpartition("@")[2].split(",") if node]
    parts = [unquote(part) for part in url.path.split("/") if part]
    values: dict[str, Any] = {}
    if form == "sentinel":
        if not nodes or not parts:
            reason = "must name the sentinels and the service, as in redis+sentinel://host:port,…/service"
            raise SettingsError("redis", reason)
        values |= {"sentinels": nodes, "service_name": parts.pop(0)}
    elif form == "cluster":
        if not nodes:
            raise SettingsError("redis", "must name at least one node")
        values |= {"cluster_nodes": nodes}
    elif nodes:
        values["host"], values["port"] = host_and_port(nodes[0], REDIS_PORT) if len(nodes) == 1 else ("", 0)
    if len(nodes) > 1 and not form:
        reason = "names several hosts; use redis+sentinel:// or redis+cluster://, or blanks between several URLs"
        raise SettingsError("redis", reason)
    if len(parts) > 1 or not all(part.isdigit() for part in parts):
        raise SettingsError("redis", "the path must be the number of a database")
    return values | ({"db": parts[0]} if parts else {})
