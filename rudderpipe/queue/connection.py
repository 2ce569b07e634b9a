"""A Redis client of the node that has the queue: a single server, a Sentinel master or a Cluster node."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from rudderpipe.errors import QueueUnavailable, SettingsError
from rudderpipe.log_text import one_line
from rudderpipe.settings import Settings
from rudderpipe.settings.redis_url import REDIS_PORT, SENTINEL_PORT, host_and_port

ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for 0 seconds."""
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0
_SCRIPT = re.compile(
    r"^(ERR )?Error running script \(call to \w+\): |@?user_script: ?\d+: ?|,? on @user_script.*$"
    r"| script: [0-9a-f]{40}.*$"
)
"""The text that Redis 6, 7 and 8 put around an error to name the script that raised it."""


class Connection:
    """The connection to the one node that has the queue, opened by the first call.

    The node is looked up when a call needs it, and again after every error. So a new master, a slot that has moved and
    a server that is back are one case. No command is ever repeated here, because only the caller knows whether a repeat
    after a lost answer is right.
    """

    def __init__(
        self,
        settings: Settings,
        key: str,
        answer_s: float | None = None,
        on_error: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:
        """Remember where Redis is, and how long a call waits for its answer (default: ``ANSWER_TIMEOUT_S``).

        ``on_error`` is called with each error of Redis or of the connection. ``key`` is any key of the queue, because a
        cluster has all of them in one slot.
        """
        self._address = settings.redis_address
        self._password = settings.redis_password
        self.place = self._address.place
        self._key = key
        self._answer_s = answer_s or ANSWER_TIMEOUT_S
        self._on_error = on_error
        self._client: redis.Redis | None = None

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """Yield a client for one call.

        Raise ``QueueUnavailable`` with the text of the error from Redis, without any data that was sent.
        """
        asked = False
        try:
            if self._client is None or _is_stale(self._client):
                self.close()
                self._client = self._find()
                _abort_when_closed(self._client)
            asked = True
            yield self._client
        except SettingsError as error:  # the file of the password; nothing was sent
            raise QueueUnavailable(self.place, str(error), answered=True) from None
        except redis.AuthenticationError as error:
            self._failed(error)
            raise QueueUnavailable(self.place, "user or password is missing or was refused", answered=True) from None
        except MasterNotFoundError as error:  # its text shows the sentinel clients
            self._failed(error)
            reason = f"none of the sentinels that answer knows a master named {self._address.service_name}"
            raise QueueUnavailable(self.place, reason, answered=True) from None
        except redis.TimeoutError as error:
            self._failed(error)
            raise QueueUnavailable(self.place, "no answer in time", answered=not asked) from error
        except (redis.RedisError, redis.exceptions.RedisClusterException, OSError) as error:
            answered = not asked or isinstance(error, (redis.ResponseError, redis.BusyLoadingError))
            self._failed(error)
            raise QueueUnavailable(self.place, _reason(error), answered) from error

    def certificate_ends_s(self) -> float | None:
        """Return when the server's certificate ends, in seconds since 1970; None without TLS."""
        with self.client() as client:
            link: Any = client.connection
            own: Any = getattr(link, "_sock", None)  # as in ``_abort_when_closed``
            return (
                float(ssl.cert_time_to_seconds(own.getpeercert()["notAfter"])) if hasattr(own, "getpeercert") else None
            )

    def _failed(self, error: BaseException) -> None:
        self.close()
        self._on_error(error)

    def close(self) -> None:
        """Close the connections; the next call looks the node up again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _find(self) -> redis.Redis:
        where, options = self._address, self._options()
        own: dict[str, Any] = {"username": where.username, "password": self._password()}
        if where.cluster_nodes:
            node: Any = ClusterNode  # redis-py gives the constructor no types
            starts: list[Any] = [node(*host_and_port(each, REDIS_PORT)) for each in where.cluster_nodes]
            cluster: Any = RedisCluster(startup_nodes=starts, **options, **own)
            try:
                node = cluster.get_node_from_key(self._key)
                if node is None:
                    raise redis.ConnectionError("no node of the cluster has the queue's slot")
                return redis.Redis(host=node.host, port=node.port, single_connection_client=True, **options, **own)
            finally:
                cluster.close()
        if where.sentinels:
            asked = {"username": where.sentinel_username, "password": where.sentinel_password, **options}
            nodes = [host_and_port(node, SENTINEL_PORT) for node in where.sentinels]
            sentinel: Any = Sentinel(nodes, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]  # redis-py gives it no types
            try:
                host, port = sentinel.discover_master(where.service_name)
            finally:
                for client in sentinel.sentinels:
                    client.close()
            return redis.Redis(host=host, port=port, db=where.db, single_connection_client=True, **options, **own)
        return redis.Redis(
            host=where.host,
            port=where.port,
            db=where.db,
            unix_socket_path=where.unix_socket_path,
            single_connection_client=True,
            **options,
            **own,
        )

    def _options(self) -> dict[str, Any]:
        where = self._address
        options: dict[str, Any] = {
            "socket_connect_timeout": min(CONNECT_TIMEOUT_S, self._answer_s),
            "socket_timeout": self._answer_s,
            "retry": Retry(NoBackoff(), 0),
            "client_name": "rudderpipe",
        }
        if where.protocol is not None:
            options["protocol"] = where.protocol
        if where.ssl:
            options |= {
                "ssl": True,
                "ssl_ca_certs": where.ssl_ca_file,
                "ssl_certfile": where.ssl_cert_file,
                "ssl_keyfile": where.ssl_key_file,
                "ssl_check_hostname": where.ssl_check_hostname,
            }
        return options


def _abort_when_closed(client: redis.Redis) -> None:
    """Make the kernel drop data that it has not sent yet when the connection is closed.

    Otherwise the kernel would go on sending a call that was given up, and Redis might get that call after the calls of
    the next connection.
    """
    link: Any = client.connection
    own = getattr(link, "_sock", None)  # redis-py has no public attribute for the socket
    if own is not None:
        with suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)


def _is_stale(client: redis.Redis) -> bool:
    """Return True if Redis has closed the connection, because it was idle or because Redis was restarted."""
    link: Any = client.connection
    try:
        return bool(link.can_read())  # no call is under way, so readable means the end of the connection
    except (redis.RedisError, OSError):
        return True


def _reason(error: Exception) -> str:
    """Return the first line of the error from Redis or the system, without the name of the script."""
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, redis.exceptions.AskError):  # MovedError is a subclass; redis-py cuts the word MOVED off
        return f"MOVED {one_line(lines[0], 100)}: this is a node of a cluster; use a redis+cluster:// URL"
    return one_line(_SCRIPT.sub("", lines[0]).lstrip("-"), 200)
