"""The trace and span ids of OpenTelemetry's current span in the context of events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from rudderpipe import Client, request_context
from rudderpipe.compat import rudderstack, segment
from rudderpipe.ring import location, memory
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.ring import find
from rudderpipe.testing import CapturedEvents, capture
from tests.fakes import settings_of

DESTINATION: dict[str, Any] = {"write_key": "KEY", "data_plane_url": "http://127.0.0.1:9"}
TRACER = TracerProvider().get_tracer("tests")
CALLS: dict[str, Callable[[Client], object]] = {
    "identify": lambda client: client.identify("u", {"plan": "Free"}),
    "track": lambda client: client.track("u", "e", {"a": 1}),
    "page": lambda client: client.page("u", "Docs", "Queue"),
    "screen": lambda client: client.screen("u", name="Home"),
    "group": lambda client: client.group("u", "acme"),
    "alias": lambda client: client.alias("before", "u"),
    "whole message": lambda client: client.track({"userId": "u", "event": "e", "properties": {}, "context": {"a": 1}}),
    "many": lambda client: client.send_many([{"type": "track", "userId": "u", "event": "e", "properties": {}}]),
}


def ids_of(span: trace.Span) -> tuple[str, str]:
    """Return the ids of a span as its header ``traceparent`` has them."""
    found = span.get_span_context()
    return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)


def ids_in(message: Any) -> tuple[Any, Any]:
    """Return the ids in a message's context."""
    return message["context"].get("traceId"), message["context"].get("spanId")


@pytest.fixture(name="span")
def _span() -> Iterator[Span]:
    """Yield a real span, which is current."""
    with TRACER.start_as_current_span("request") as span:
        assert isinstance(span, Span)
        yield span


@pytest.fixture(name="captured")
def _captured() -> Iterator[CapturedEvents]:
    with capture() as captured:
        yield captured


def client(**options: Any) -> Client:
    """Return a client that adds the ids and can preview messages."""
    return Client(**DESTINATION, pipe="never", autostart=False, trace_context=True, **options)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_has_the_ids_of_the_current_span(
    captured: CapturedEvents, span: Span, call: Callable[[Client], object]
) -> None:
    """The own parts of the context stay."""
    call(client(context={"app": {"name": "shop"}}))

    (message,) = captured
    assert ids_in(message) == ids_of(span)
    assert message["context"]["app"] == {"name": "shop"}
    assert message["context"]["library"]["name"] == "rudderpipe"
    assert "traits" in message["context"] or message["type"] != "identify"


def test_without_the_setting_no_ids_are_added(captured: CapturedEvents, span: Span) -> None:
    """It is off unless it is set."""
    Client(**DESTINATION, pipe="never", autostart=False).track("u", "e")

    assert span.is_recording()
    assert ids_in(captured[0]) == (None, None)


@pytest.mark.parametrize("drop_in", [rudderstack, segment])
def test_the_drop_ins_have_the_ids(captured: CapturedEvents, span: Span, drop_in: Any) -> None:
    """The message that a call returns has them too, because it is the message that was sent."""
    ours = drop_in.Client("KEY", host="http://127.0.0.1:9", trace_context=True, autostart=False)

    _, returned = ours.track("u", "e", context={"spanId": "own"})

    assert ids_in(captured[0]) == ids_in(returned) == (ids_of(span)[0], "own")


def test_the_names_of_the_node_sdk_have_the_ids(captured: CapturedEvents, span: Span) -> None:
    """The setting stands beside the options of the Node SDK."""
    options = {"dataPlaneUrl": "http://127.0.0.1:9", "flushAt": 1, "trace_context": True, "autostart": False}

    Client("KEY", options).track({"userId": "u", "event": "e"})

    assert ids_in(captured[0]) == ids_of(span)


@pytest.mark.parametrize("whose", ["call", "request", "client"])
def test_the_callers_own_ids_win(captured: CapturedEvents, span: Span, whose: str) -> None:
    """Whoever gives one of the ids gives it on purpose, also as null. The other one is added."""
    own = {"traceId": "own"}
    ours = client(context=own if whose == "client" else None)
    with request_context(own if whose == "request" else {}):
        ours.track("u", "e", context=own if whose == "call" else None)
        ours.track({"userId": "u", "event": "e", "context": {"traceId": None}})

    assert ids_in(captured[0]) == ("own", ids_of(span)[1])
    assert ids_in(captured[1]) == (None, ids_of(span)[1])


def test_before_send_sees_the_ids(captured: CapturedEvents, span: Span) -> None:
    """It may remove them or use them."""
    seen: list[Any] = []

    def step(message: dict[str, Any]) -> dict[str, Any]:
        seen.append(ids_in(message))
        del message["context"]["spanId"]
        return message

    client(before_send=step).track("u", "e")

    assert seen == [ids_of(span)]
    assert ids_in(captured[0]) == (ids_of(span)[0], None)


def test_each_event_has_the_span_of_its_call(captured: CapturedEvents, span: Span) -> None:
    """An inner span has another id in the same trace."""
    ours = client()
    ours.track("u", "e")
    with TRACER.start_as_current_span("inner") as inner:
        ours.track("u", "e")
    ours.track("u", "e")

    assert [ids_in(message) for message in captured] == [ids_of(span), ids_of(inner), ids_of(span)]
    assert ids_of(span)[0] == ids_of(inner)[0]


def test_no_span_adds_nothing(captured: CapturedEvents) -> None:
    """Neither without a span, nor with one that is not valid."""
    ours = client()
    ours.track("u", "e")
    with trace.use_span(trace.INVALID_SPAN):
        ours.track("u", "e")

    assert [ids_in(message) for message in captured] == [(None, None)] * 2


def test_a_span_that_is_not_recorded_gives_its_ids(captured: CapturedEvents) -> None:
    """The log lines of the application have them too, and another service may record the trace."""
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests")
    with unsampled.start_as_current_span("request") as span:
        client().track("u", "e")

    assert not span.is_recording()
    assert ids_in(captured[0]) == ids_of(span)


class Broken(trace.NonRecordingSpan):
    """A span whose context cannot be read."""

    def get_span_context(self) -> trace.SpanContext:
        raise RuntimeError("broken")


def test_an_error_of_opentelemetry_costs_no_event(captured: CapturedEvents, caplog: pytest.LogCaptureFixture) -> None:
    """The event is accepted without the ids, and the log says why."""
    token = otel_context.attach(trace.set_span_in_context(Broken(trace.INVALID_SPAN_CONTEXT)))
    try:
        assert client().track("u", "e") is True
    finally:
        otel_context.detach(token)

    assert ids_in(captured[0]) == (None, None)
    assert "OpenTelemetry raises RuntimeError" in caplog.text


def test_the_ring_has_the_ids(tmp_path: Path, span: Span) -> None:
    """Clients that differ only in the setting share a ring, whose flusher does not know the setting."""
    settings = settings_of(tmp_path, **DESTINATION, autostart=False)
    assert msgspec.structs.replace(settings, trace_context=True).for_processes() == settings.for_processes()
    for is_on in (True, False):
        ours = Client(settings=settings, trace_context=is_on)
        assert ours.track("u", "e")
        ring = find(settings.for_processes())
        assert ring is not None
        consumer = Consumer(ring)
        consumer.refresh(whole=True)
        batch = consumer.next_batch(10, 1000)
        assert batch is not None
        message = msgspec.json.decode(bytes(batch.data))
        assert ids_in(message) == (ids_of(span) if is_on else (None, None))
        consumer.release([batch])
        ours.shutdown(0)
    memory.remove(location.own(settings).segment)
