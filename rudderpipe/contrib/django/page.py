"""A view that shows the page of a pipe behind the login of a Django project."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

import rudderpipe
from rudderpipe.observe.web import Access, application
from rudderpipe.settings import Settings

REQUEST = "rudderpipe.django_request"


def page(
    access: Callable[[HttpRequest], Access], settings: Settings | None = None, *, shows_events: bool = False
) -> Callable[..., Any]:
    """Return a view of the page: ``re_path(r"^pipe(?P<path>/.*)?$", page(access))`` in the list of URLs.

    ``access`` returns ``"none"``, ``"read"`` or ``"all"`` for a request. ``settings`` are those of the pipe (default:
    those of the default client). ``shows_events`` also shows the payload of failed events.
    """
    made: list[Any] = []

    def view(request: HttpRequest, path: str | None = None) -> HttpResponse | StreamingHttpResponse:
        if not made:  # not when the URLs are loaded, because the default client may be configured later
            own = settings or rudderpipe.default_client().settings
            made.append(application(own, access=lambda environ: access(environ[REQUEST]), shows_events=shows_events))
        started: list[Any] = []
        body = made[-1](_environ(request, path or ""), lambda *what: started.extend(what))
        status, headers = int(started[0][:3]), dict(started[1])
        if isinstance(body, list):
            return HttpResponse(b"".join(body), status=status, headers=headers)
        return StreamingHttpResponse(body, status=status, headers=headers)

    # Our own check of the origin takes the place of Django's token, which the page does not know.
    exempt: Callable[..., Any] = csrf_exempt(view)
    return exempt


def _environ(request: HttpRequest, path: str) -> dict[str, Any]:
    """Return what WSGI would pass to the page if it were mounted where the view is."""
    user = getattr(request, "user", None)
    return {
        **request.META,
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": request.path.removesuffix(path),
        "PATH_INFO": path.encode(errors="surrogateescape").decode("latin-1"),
        "REMOTE_USER": user.get_username() if user is not None else "",
        "wsgi.input": BytesIO(request.body),
        "CONTENT_LENGTH": str(len(request.body)),
        REQUEST: request,
    }
