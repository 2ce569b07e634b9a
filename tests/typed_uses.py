"""Uses of every public name as applications write them, which mypy and pyright must accept, both strict.

Nothing here runs: the tests of types read it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import rudderpipe
from rudderpipe import (
    Client,
    DeliveryError,
    EventError,
    EventRefused,
    FlushResult,
    RedisAddress,
    RingFull,
    Scrubber,
    Sent,
    Settings,
    SettingsError,
    configure,
    default_client,
    request_context,
)
from rudderpipe.compat import rudderstack, segment
from rudderpipe.messages.scrubber import EMAIL
from rudderpipe.testing import CapturedEvents, LocalDataPlane, capture
from rudderpipe.types import AliasMessage, IdentifyMessage, TrackMessage


def callback(error: Exception | None, message: dict[str, Any]) -> None:
    """Print the error and the message id, as a callback does."""
    print(error, message["messageId"])


def before_send(message: dict[str, Any]) -> dict[str, Any] | None:
    """Drop internal messages."""
    return None if message.get("userId") == "internal" else message


def clients() -> Iterator[Client]:
    """Yield a client for each way to make one."""
    yield Client()
    yield Client("KEY", "https://plane.example.com", flush_at=20, redis="redis://localhost")
    yield Client("KEY", "https://plane.example.com", {"flushAt": 20, "logLevel": "debug"})
    yield Client("KEY", {"dataPlaneUrl": "https://plane.example.com"})
    yield Client(
        "KEY",
        "https://plane.example.com",
        before_send=[before_send, lambda message: message],
        sample_events={"Item Viewed": 0.1},
        sample_users=0.5,
        scrubber=Scrubber(patterns=[EMAIL, re.compile("x")]),
        context={"app": {"name": "shop"}},
        integrations={"All": True},
        default=str,
        on_error=lambda error, messages: print(error, len(messages)),
    )
    yield Client(settings=Settings(write_key="KEY", data_plane_url="https://plane.example.com"), flush_at=5)
    yield Client(redis={"host": "localhost"}, when_full="raise", timeout_s=5, autostart="flusher", keep_failed=None)
    yield configure("KEY", "https://plane.example.com", flush_at=20, before_send=before_send)
    yield configure(settings=default_client().settings)
    yield default_client()


def calls(client: Client) -> bool:
    """Make all six calls, in both forms."""
    now = datetime.now(timezone.utc)
    message: TrackMessage = {"userId": 42, "event": "Item Viewed", "properties": {"price": 19.95}, "timestamp": now}
    person: IdentifyMessage = {"anonymousId": "a", "traits": {"plan": "pro"}}
    both: AliasMessage = {"userId": "u", "previousId": "p", "anonymousId": "a", "traits": {"plan": "pro"}}
    accepted: bool = client.track("u", "Item Viewed", {"price": 19.95, "id": UUID(int=1)}, timestamp=now)
    accepted &= client.track(message) and client.track(message, callback)
    accepted &= client.track({"userId": "u", "event": "e", "own": 1}, lambda error: print(error))
    accepted &= client.track({"userId": "u", "event": "e"}, callback=callback) and client.page(
        {"userId": "u"}, callback
    )
    accepted &= client.track("u", "e", {}, {"ip": "1.1.1.1"}, now, "a", {"All": True}, "mine", callback)
    accepted &= client.identify(person) and client.identify("u", {"plan": "pro"}, callback=callback)
    accepted &= client.page("u", "Docs", "Queue", {"path": "/"}) and client.screen(anonymous_id=1, name="Home")
    accepted &= client.group("u", "acme", {"plan": "pro"}, context={"ip": "1.1.1.1"}, integrations={"All": False})
    accepted &= client.alias("p", "u", traits={"plan": "pro"}, anonymous_id="a", callback=callback)
    return accepted and client.alias("p", "u", message_id="mine") and client.alias(both)


def many(client: Client) -> str:
    """Send many messages, and use the result."""
    track: TrackMessage = {"type": "track", "userId": 42, "event": "Imported"}
    rows: list[dict[str, str]] = [{"type": "identify", "userId": "u"}]
    sent: Sent = client.send_many([track, {"type": "page", "userId": "u"}])
    client.send_many(rows)
    client.send_many({"type": "track", "userId": str(number), "event": "Imported"} for number in range(3))
    try:
        client.send_many(iter([track]))
    except RingFull as error:
        return "" if error.sent is None else str(error.sent.accepted)
    return "all" if sent else sent.refused[0]


def previews(client: Client) -> str:
    """Preview the message of a call."""
    message: dict[str, Any] | None = client.preview("track", "u", "e", {"price": 19.95}, timestamp=0)
    return "dropped" if message is None else str(message["messageId"])


def queue(client: Client) -> None:
    """Create the queue in each way."""
    client.create_persistence_queue("redis://localhost")
    client.create_persistence_queue({"host": "localhost", "port": 6380}, queue_name="mine", max_attempts=3)
    client.create_persistence_queue(RedisAddress(host="localhost"), lambda error: print(error))
    client.createPersistenceQueue({"redisOpts": {"host": "localhost"}, "jobOpts": {"maxAttempts": 3}}, print)


async def flushes(client: Client) -> int:
    """Flush in each way, and use the results."""
    result: FlushResult = client.flush(5, until="delivered")
    client.flush(lambda error, result: print(error, result))
    later = await client.aflush(timeout_s=1.5)
    with client as same:
        same.shutdown()
    settings: Settings = client.settings
    counts = client.counts().get("accepted", 0)
    return result.failed + later.pending + settings.flush_at + counts if result and later.complete else 0


def contexts(client: Client) -> None:
    """Track within a request context."""
    with request_context({"ip": "1.1.1.1"}):
        client.track("u", "e")


def errors(client: Client) -> str:
    """Catch each error that a call may raise."""
    try:
        client.track("u", "e")
    except (EventError, SettingsError) as error:
        return error.field + error.reason
    except (RingFull, EventRefused, DeliveryError) as error:
        return error.reason
    except rudderpipe.RudderpipeError:
        return rudderpipe.__version__
    return ""


def drop_ins() -> tuple[bool, dict[str, Any]]:
    """Use the drop-ins as the SDKs that they replace."""
    rudderstack.write_key = "KEY"
    rudderstack.track("u", "e", {"a": 1})
    ok, message = segment.Client("KEY", host="https://plane.example.com", gzip=True).track("u", "e")
    segment.Client("KEY", redis="redis://localhost", oauth_scope=None, max_rate_limit_duration=5)
    rudderstack.Client("KEY", redis="redis://localhost", pipe="shop", upload_size=50)
    rudderstack.Client("KEY", on_error=lambda error, batch: print(error, batch[0])).identify("u", {"plan": "pro"})
    return ok, message


@contextmanager
def tests() -> Generator[CapturedEvents, None, None]:
    """Yield captured events, as an application's own tests use them."""
    with capture(strict=False) as captured, LocalDataPlane() as plane:
        plane.fail(503, times=2)
        found: dict[str, Any] = captured.assert_tracked("e", user_id=5, properties={"a": 1}, times=1)
        print(found, captured[0]["event"], captured[-2:], len(captured), plane.wait_for(1)[0]["event"])
        yield captured
