"""The integration with ASGI applications (Starlette, FastAPI): the request context and the lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from rudderpipe import log_text
from rudderpipe.client import Client
from rudderpipe.contrib import context
from rudderpipe.messages.context import request_context

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = log_text.logger()


class RequestContext:
    """The middleware that adds ip, userAgent, locale and page to the events of a request.

    Use it with ``app.add_middleware(RequestContext)``. ``proxies`` is the number of your own proxies in front of the
    server.
    """

    def __init__(self, app: Application, proxies: int = 0) -> None:
        self.app = app
        self.proxies = context.checked_proxies(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request with its context; run the lifespan without one."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        with request_context(context_of(scope, self.proxies)):
            await self.app(scope, receive, send)


def context_of(scope: Scope, proxies: int = 0) -> dict[str, Any]:
    """Return the context of an ASGI request."""
    headers: dict[str, str] = {}
    for raw_name, raw in scope.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw.decode("latin-1")
        # A proxy may add a second header line of the same name.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return context.of_request(
        ip=context.client_ip((scope.get("client") or (None,))[0], headers.get("x-forwarded-for"), proxies),
        user_agent=headers.get("user-agent"),
        languages=headers.get("accept-language"),
        path=scope.get("path"),
        search=scope.get("query_string", b"").decode("latin-1"),
        referrer=headers.get("referer"),
    )


def lifespan(client: Client) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan for ``FastAPI(lifespan=lifespan(client))``, which warms up the client at the start.

    At the end it waits, at most ``shutdown_timeout_s``, until the accepted events have left the ring. The event loop
    runs meanwhile.
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
    except Exception as error:  # noqa: BLE001  # the server must end in order, whatever is wrong with the ring
        logger.warning("the server ends and cannot wait for the ring: %s", error)
        return
    if not result:
        logger.warning("the server ends and events stay in the ring for the next flusher events=%d", result.pending)
