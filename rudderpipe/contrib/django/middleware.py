"""The middleware that adds the context of a request to the events of that request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from rudderpipe.contrib.context import checked_proxies
from rudderpipe.contrib.wsgi import context_of
from rudderpipe.messages.context import request_context


def _context(request: HttpRequest, proxies: int) -> dict[str, Any]:
    return context_of({**request.META, "SCRIPT_NAME": "", "PATH_INFO": request.path}, proxies)


@sync_and_async_middleware  # type: ignore[untyped-decorator]  # Django ships no types
def request_context_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Add ip, userAgent, locale and page to the events of a request.

    ``RUDDERPIPE["proxies"]`` is the number of your own proxies in front of the server.
    """
    proxies = checked_proxies((getattr(settings, "RUDDERPIPE", None) or {}).get("proxies", 0))
    if iscoroutinefunction(get_response):

        async def answer_later(request: HttpRequest) -> HttpResponseBase:
            with request_context(_context(request, proxies)):
                later: Awaitable[HttpResponseBase] = get_response(request)
                return await later

        return answer_later

    def answer(request: HttpRequest) -> HttpResponseBase:
        with request_context(_context(request, proxies)):
            response: HttpResponseBase = get_response(request)
            return response

    return answer
