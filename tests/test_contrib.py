"""The request context that each kind of framework gives to events."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse

from rudderpipe import Client
from rudderpipe.contrib import asgi, context, wsgi
from rudderpipe.contrib.django.middleware import request_context_middleware
from rudderpipe.contrib.options import client_of
from rudderpipe.errors import SettingsError
from rudderpipe.messages.context import current

ENVIRON = {
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_X_FORWARDED_FOR": "6.6.6.6, 10.0.0.1",
    "HTTP_USER_AGENT": "agent",
    "HTTP_ACCEPT_LANGUAGE": "de-CH,de;q=0.9",
    "HTTP_REFERER": "https://example.com/",
    "SCRIPT_NAME": "/shop",
    "PATH_INFO": "/items",
    "QUERY_STRING": "a=1",
}
EXPECTED = {
    "ip": "10.0.0.1",
    "userAgent": "agent",
    "locale": "de-CH",
    "page": {"path": "/shop/items", "search": "?a=1", "referrer": "https://example.com/"},
}


@pytest.mark.parametrize(
    ("forwarded", "proxies", "ip"),
    [
        (None, 0, "remote"),
        ("6.6.6.6", 0, "remote"),
        (None, 1, "remote"),
        (" , ", 1, "remote"),
        ("a", 1, "a"),
        ("forged, a", 1, "a"),
        ("forged, a, b", 2, "a"),
        ("a", 5, "remote"),
        ("forged", 2, "remote"),
        ("a, b", -1, "remote"),
    ],
)
def test_the_clients_ip_comes_from_trusted_proxies_only(forwarded: str | None, proxies: int, ip: str) -> None:
    """A client can forge ``X-Forwarded-For``, so only the entries of the application's own proxies count."""
    assert context.client_ip("remote", forwarded, proxies) == ip


def test_wsgi_has_the_request_context_during_the_call() -> None:
    """The context ends with the call, also when the application raises."""
    seen: list[Any] = []

    def application(_environ: Any, _start: Any) -> list[bytes]:
        seen.append(current.get())
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # the application's own
        wsgi.RequestContext(application, proxies=1)(ENVIRON, print)

    assert seen == [EXPECTED]
    assert current.get() is None
    assert wsgi.context_of({}) == {}


def test_asgi_has_a_request_context_for_http_and_websockets() -> None:
    """The lifespan belongs to no request, so it has no context."""
    seen: list[Any] = []

    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.sleep(0)
        seen.append(current.get())

    headers = [
        (b"User-Agent", b"agent"),
        (b"accept-language", b"de-CH,de;q=0.9"),
        (b"x-forwarded-for", b"6.6.6.6, 10.0.0.1"),
        (b"referer", b"https://example.com/"),
    ]
    scope = {"client": ("127.0.0.1", 5), "path": "/shop/items", "query_string": b"a=1", "headers": headers}

    async def main() -> None:
        middleware = asgi.RequestContext(application, proxies=1)
        for kind in ("http", "websocket", "lifespan"):
            await middleware({"type": kind, **scope}, None, None)  # type: ignore[arg-type]  # the application uses neither

    asyncio.run(main())

    assert seen == [EXPECTED, EXPECTED, None]
    assert asgi.context_of({"type": "http", "client": None}) == {}


def test_django_has_a_request_context_in_sync_and_async_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django runs both kinds of views, and the middleware serves each in its own kind."""
    if not django_settings.configured:
        django_settings.configure()
    monkeypatch.setattr(django_settings, "RUDDERPIPE", {"proxies": 1}, raising=False)
    request = HttpRequest()
    request.META, request.path = ENVIRON, "/shop/items"
    seen: list[Any] = []

    def sync(_request: Any) -> HttpResponse:
        seen.append(current.get())
        return HttpResponse()

    async def later(_request: Any) -> HttpResponse:
        await asyncio.sleep(0)
        return sync(_request)

    request_context_middleware(sync)(request)
    asyncio.run(request_context_middleware(later)(request))

    assert seen == [EXPECTED, EXPECTED]


def test_client_of_takes_one_mapping_of_all_settings() -> None:
    """A framework's configuration may use both forms of names, and other arguments of ``Client`` too."""
    made = client_of(
        {"write_key": "KEY", "dataPlaneUrl": "http://127.0.0.1:9", "flushAt": 5, "enable": False, "default": str}
    )
    assert isinstance(made, Client)
    assert (made.settings.flush_at, made.settings.data_plane_url) == (5, "http://127.0.0.1:9")
    message: Any = made.preview("track", "u", "e", {"a": types})
    assert message["properties"]["a"].startswith("<module 'types'")
    with pytest.raises(SettingsError, match="flushAtt"):
        client_of({"write_key": "KEY", "flushAtt": 5})


def test_client_of_takes_the_node_sdks_lower_case_names() -> None:
    """``host``, ``timeout`` and a path without its slash look like settings, but belong to the Node SDK."""
    given = {"write_key": "KEY", "host": "http://127.0.0.1:9", "timeout": "3s", "path": "v2/batch", "enable": False}
    settings = client_of(given).settings
    assert (settings.data_plane_url, settings.timeout_s, settings.path) == ("http://127.0.0.1:9", 3.0, "/v2/batch")


@pytest.mark.parametrize("wrong", ["1", None, -1])
def test_a_wrong_number_of_proxies_fails_at_the_start(wrong: Any) -> None:
    """A mistake such as the text of a variable must not fail at a request."""
    for middleware in (asgi.RequestContext, wsgi.RequestContext):
        with pytest.raises(SettingsError, match="proxies"):
            middleware(None, wrong)  # type: ignore[arg-type]  # the application is not called


def test_two_forwarded_headers_are_one_list() -> None:
    """A proxy may add a second line of ``X-Forwarded-For`` instead of extending the first one."""
    headers = [(b"x-forwarded-for", b"6.6.6.6, 10.0.0.1"), (b"X-Forwarded-For", b"10.0.0.2")]
    assert asgi.context_of({"type": "http", "headers": headers}, 2) == {"ip": "10.0.0.1"}


def test_a_lifespan_flushes_also_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """The application's own part raises. A failed flush is only a line in the log."""

    class Broken(Client):
        async def aflush(self, *_arguments: Any, **_more: Any) -> Any:
            raise OSError("no ring")

    async def main() -> None:
        async with asgi.lifespan(Broken("KEY", "http://127.0.0.1:9", enable=False))(None):
            raise ValueError("the application's")

    with pytest.raises(ValueError, match="the application's"):
        asyncio.run(main())
    assert "no ring" in caplog.text
