"""A Redis client from settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from rudderpipe.errors import QueueUnavailable
from rudderpipe.settings import RedisAddress, Settings

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0


def connect(settings: Settings) -> redis.Redis:
    """A client that has not connected yet.

    It never repeats a command by itself: after a lost answer only the caller knows whether that is right.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "rudderpipe",
    }
    where = settings.redis
    if isinstance(where, str):
        return redis.Redis.from_url(where, **options)
    where = where or RedisAddress()
    return redis.Redis(
        host=where.host,
        port=where.port,
        db=where.db,
        username=where.username,
        password=where.password,
        ssl=where.ssl,
        unix_socket_path=where.unix_socket_path,
        **options,
    )


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn what the client raises into ``QueueUnavailable``; what Redis says is told, what we sent is not."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise QueueUnavailable(place, f"user or password was refused ({type(error).__name__})") from None
    except redis.ResponseError as error:
        raise QueueUnavailable(place, str(error).splitlines()[0][:200]) from error
    except redis.TimeoutError as error:
        raise QueueUnavailable(place, "no answer in time") from error
    except (redis.RedisError, OSError) as error:
        raise QueueUnavailable(place, str(error).splitlines()[0][:200] or type(error).__name__) from error
