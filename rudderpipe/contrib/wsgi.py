"""The request context for any WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rudderpipe.contrib import context
from rudderpipe.messages.context import request_context

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def context_of(environ: Environ, proxies: int = 0) -> dict[str, Any]:
    """Return the context of a WSGI request."""
    return context.of_request(
        ip=context.client_ip(environ.get("REMOTE_ADDR"), environ.get("HTTP_X_FORWARDED_FOR"), proxies),
        user_agent=environ.get("HTTP_USER_AGENT"),
        languages=environ.get("HTTP_ACCEPT_LANGUAGE"),
        path=environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""),
        search=environ.get("QUERY_STRING"),
        referrer=environ.get("HTTP_REFERER"),
    )


class RequestContext:
    """The middleware that adds ip, userAgent, locale and page to the events of a request.

    Events that a streamed response body sends while it is read do not get this context. ``proxies`` is the number of
    your own proxies in front of the server.
    """

    def __init__(self, application: Application, proxies: int = 0) -> None:
        self.application = application
        self.proxies = context.checked_proxies(proxies)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Run one request with its context."""
        with request_context(context_of(environ, self.proxies)):
            return self.application(environ, start_response)
