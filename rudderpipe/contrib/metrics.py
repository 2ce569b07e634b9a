"""Views that export the metrics of the clients of this process (extra ``metrics``). Protect them as you do others.

Every worker returns the same values, because they come from shared memory and from Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from rudderpipe.observe.metrics import exposition


def wsgi_application(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Respond to any WSGI request with the metrics."""
    found = exposition.of_application(environ.get("HTTP_ACCEPT", ""))
    start_response(f"{found.status} {HTTPStatus(found.status).phrase}", [("Content-Type", found.content_type)])
    return [found.content()]


async def asgi_application(
    scope: Mapping[str, Any],
    receive: Callable[[], Awaitable[Any]],  # noqa: ARG001  # every ASGI application has it
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Respond to any ASGI request with the metrics, which a thread reads."""
    assert scope["type"] == "http", scope["type"]
    headers: Mapping[bytes, bytes] = dict(scope.get("headers", ()))
    accept = headers.get(b"accept", b"").decode("latin-1")
    found = await asyncio.to_thread(exposition.of_application, accept)
    content_type = [(b"content-type", found.content_type.encode())]
    await send({"type": "http.response.start", "status": found.status, "headers": content_type})
    await send({"type": "http.response.body", "body": found.content()})


def flask_view() -> tuple[bytes, int, dict[str, str]]:
    """Return the metrics: ``app.add_url_rule("/metrics", view_func=flask_view)``."""
    from flask import request  # imported here, because the other views are for other frameworks

    found = exposition.of_application(request.headers.get("Accept", ""))
    return found.content(), found.status, {"Content-Type": found.content_type}


def django_view(request: Any) -> Any:
    """Return the metrics: ``path("metrics", django_view)`` in the list of URLs."""
    from django.http import HttpResponse  # as above

    found = exposition.of_application(request.headers.get("Accept", ""))
    return HttpResponse(found.content(), status=found.status, content_type=found.content_type)
