"""Starlette, FastAPI and other ASGI applications: request context, and the end of their lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from rudderpipe import log_text
from rudderpipe.client import Client
from rudderpipe.contrib import context
from rudderpipe.messages import context as ambient

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = log_text.logger()


class RequestContext:
    """Middleware: events that are sent while a request is answered have its ip, userAgent, locale and page.

    ``app.add_middleware(RequestContext)``. ``proxies``: how many of one's own stand before the server.
    """

    def __init__(self, app: Application, proxies: int = 0) -> None:
        self.app = app
        self.proxies = context.checked_proxies(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        with ambient.request_context(context_of(scope, self.proxies)):
            await self.app(scope, receive, send)


def context_of(scope: Scope, proxies: int = 0) -> dict[str, Any]:
    """The context of an ASGI request."""
    headers: dict[str, str] = {}
    for raw_name, raw in scope.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value  # a proxy may add a line of its own
    return context.of_request(
        ip=context.client_ip((scope.get("client") or (None,))[0], headers.get("x-forwarded-for"), proxies),
        user_agent=headers.get("user-agent"),
        languages=headers.get("accept-language"),
        path=scope.get("path"),
        search=scope.get("query_string", b"").decode("latin-1"),
        referrer=headers.get("referer"),
    )


def lifespan(client: Client) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """For ``FastAPI(lifespan=lifespan(client))``: at the end, wait until what was accepted has left the ring.

    ``shutdown_timeout_s`` at the most; the event loop goes on meanwhile.
    """

    @asynccontextmanager
    async def run(_app: Any) -> AsyncIterator[None]:
        client.warm_up()
        try:
            yield
        finally:
            await _wait(client)

    return run


async def _wait(client: Client) -> None:
    try:
        result = await client.aflush(client.settings.shutdown_timeout_s)
    except Exception as error:  # noqa: BLE001  # the server ends in order, whatever is wrong with its ring
        logger.warning("the server ends, and cannot wait for the ring: %s", error)
        return
    if not result:
        logger.warning("the server ends, events stay in the ring for the next flusher events=%d", result.pending)
