"""The page as a WSGI application: its paths, who may call each, and the log of what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable, RudderpipeError
from rudderpipe.observe.web.api import Api
from rudderpipe.observe.web.door import Access, Door, MountedDoor, Visitor, check_origin
from rudderpipe.observe.web.download import Download
from rudderpipe.observe.web.failed import Changed, FailedPages, Wanted
from rudderpipe.observe.web.request import Refused, Request
from rudderpipe.observe.web.response import Response, of_json, of_refusal, status_line
from rudderpipe.settings import Settings

logger = log_text.logger("rudderpipe.web")

TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
}
Handler = Callable[[Request, Visitor], Response]


class Login(msgspec.Struct, frozen=True):
    """The body of a login."""

    token: str


class Nothing(msgspec.Struct, frozen=True):
    """The body of a call without arguments."""


class Application:
    """A WSGI application. Any thread may call it, and so may processes that are forked from the one that made it."""

    def __init__(self, settings: Settings, door: Door, *, shows_events: bool) -> None:
        self._api = Api(settings)
        self._failed = FailedPages(settings, shows_events=shows_events)
        self._door = door
        self._shows_events = shows_events
        folder = files("rudderpipe.observe.web") / "static"
        self._files = {
            each.name: Response(200, each.read_bytes(), TYPES[each.name.rpartition(".")[2]])
            for each in folder.iterdir()
            if each.name.rpartition(".")[2] in TYPES
        }
        self._get: dict[str, Handler] = {
            "/": self._index,
            "/api/flow": self._flow,
            "/api/failed": lambda request, _: self._slowly(lambda: self._failed.page(request)),
            "/api/failed.ndjson": self._download,
            "/api/producers": lambda _request, _: of_json(self._api.producers()),
            "/api/doctor": lambda _request, _: self._slowly(self._api.doctor),
            "/api/history": lambda _request, _: of_json(self._api.history()),
        }
        self._post: dict[str, Handler] = {
            "/api/failed/retry": self._retry,
            "/api/failed/delete": self._delete,
            "/api/queue/pause": lambda request, visitor: self._set_paused(request, visitor, pauses=True),
            "/api/queue/resume": lambda request, visitor: self._set_paused(request, visitor, pauses=False),
            "/logout": self._log_out,
        }

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
    ) -> Iterable[bytes]:
        """Respond to a request, as WSGI wants it."""
        request = Request(environ)
        response = self._response(request)
        start_response(status_line(response.status), response.fields())
        if isinstance(response.body, Download):
            if request.method != "HEAD":
                return response.body
            response.body.close()
            return []
        return [] if request.method == "HEAD" else [response.body]

    def note(self) -> None:
        """Have the history note the present, which every look at the flow does too. Raise nothing."""
        try:
            self._api.flow()
        except Exception:  # the page says what is wrong
            logger.debug("the history has a gap", exc_info=True)

    def _response(self, request: Request) -> Response:
        try:
            return self._routed(request)
        except Refused as refused:
            return of_refusal(refused)
        except QueueUnavailable as error:
            return of_refusal(Refused(503, f"Redis: {error.reason}"))
        except (RudderpipeError, OSError) as error:
            said = str(error) if isinstance(error, RudderpipeError) else f"{error.strerror or type(error).__name__}"
            return of_refusal(Refused(503, log_text.one_line(said, 500)))
        except Exception:
            logger.exception("a request to the page failed, events are not affected")
            return of_refusal(Refused(500, "The page failed; its log has the reason."))

    def _routed(self, request: Request) -> Response:
        visitor = self._door.visitor(request)
        if request.path == "":  # relative addresses need the slash; this one is relative, so it leads nowhere else
            return Response(308, headers=(("Location", f"./{request.root.rpartition('/')[2]}/"),))
        if request.path == "/login" and self._door.can_log_in:
            return self._of_method(request, visitor, {"GET": self._login_page, "POST": self._log_in})
        if request.path.startswith("/static/"):
            return self._of_method(request, visitor, {"GET": self._static})
        if visitor.access == "none":
            if request.path == "/" and self._door.can_log_in and request.method in ("GET", "HEAD"):
                return Response(303, headers=(("Location", "login"),))
            raise Refused(403, "Log in first." if self._door.can_log_in else "You may not see this page.")
        handlers: dict[str, Handler] = {}
        if request.path in self._get:
            handlers["GET"] = self._get[request.path]
        elif request.path.startswith("/api/failed/") and request.path not in self._post:
            handlers["GET"] = self._show
        if request.path in self._post:
            handlers["POST"] = self._post[request.path]
        return self._of_method(request, visitor, handlers)

    def _of_method(self, request: Request, visitor: Visitor, handlers: dict[str, Handler]) -> Response:
        if not handlers:
            raise Refused(404, "There is no such page.")
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join(sorted({*handlers, *(("HEAD",) if "GET" in handlers else ())}))
            raise Refused(405, f"Only {allowed} can be used here.", Allow=allowed)
        if request.method == "POST":
            if not visitor.has_token:
                check_origin(request)
            if visitor.access != "all" and request.path != "/login":
                raise Refused(403, "You may only look.")
        return handler(request, visitor)

    def _index(self, _request: Request, _visitor: Visitor) -> Response:
        return self._file("index.html")

    def _login_page(self, _request: Request, _visitor: Visitor) -> Response:
        return self._file("login.html")

    def _static(self, request: Request, _visitor: Visitor) -> Response:
        return self._file(request.path.removeprefix("/static/"))

    def _file(self, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise Refused(404, "There is no such page.")
        return found

    def _flow(self, request: Request, visitor: Visitor) -> Response:
        flow, digest = self._api.flow()
        tag = f'W/"{digest}-{visitor.access}"'
        known = [each.strip() for each in (request.header("if-none-match") or "").split(",")]
        if tag in known:
            return Response(304, headers=(("ETag", tag),))
        own = {"access": visitor.access, "shows_events": self._shows_events, "can_log_in": self._door.can_log_in}
        return of_json({**flow, **own}, ("ETag", tag))

    def _slowly(self, read: Callable[[], object]) -> Response:
        with self._api.slow_call():
            return of_json(read())

    def _show(self, request: Request, _visitor: Visitor) -> Response:
        return self._slowly(lambda: self._failed.show(request.path.removeprefix("/api/failed/")))

    def _download(self, request: Request, visitor: Visitor) -> Response:
        if visitor.access != "all":
            raise Refused(403, "You may only look.")
        slow = self._api.slow_call()
        slow.__enter__()
        lines = self._failed.download(request, lambda: slow.__exit__(None, None, None))
        _audit("events of failed jobs downloaded by=%s from=%s", visitor)
        name = ("Content-Disposition", 'attachment; filename="failed.ndjson"')
        return Response(200, lines, "application/x-ndjson", (name,))

    def _retry(self, request: Request, visitor: Visitor) -> Response:
        return self._changed(request, visitor, "failed jobs retried", self._failed.retry)

    def _delete(self, request: Request, visitor: Visitor) -> Response:
        return self._changed(request, visitor, "failed jobs deleted", self._failed.delete)

    def _changed(self, request: Request, visitor: Visitor, what: str, change: Callable[[Wanted], Changed]) -> Response:
        wanted = request.json(Wanted)
        with self._api.slow_call():
            found = change(wanted)
        _audit(f"{what} by=%s from=%s jobs=%s left_alone=%s", visitor, found.changed, found.left_alone)
        return of_json(found)

    def _set_paused(self, request: Request, visitor: Visitor, *, pauses: bool) -> Response:
        request.json(Nothing)
        with self._api.slow_call():
            self._api.set_paused(pauses=pauses)
        _audit("queue paused by=%s from=%s" if pauses else "queue resumed by=%s from=%s", visitor)
        return of_json({"paused": pauses})

    def _log_in(self, request: Request, visitor: Visitor) -> Response:
        token = request.json(Login).token
        try:
            cookie = self._door.log_in(request, token)
        except Refused as refused:
            _audit("login refused by=%s from=%s status=%s", visitor, refused.status)
            raise
        _audit("login by=%s from=%s", visitor._replace(who=cookie.partition("=")[2][:8]))
        return Response(204, headers=(("Set-Cookie", cookie),))

    def _log_out(self, request: Request, visitor: Visitor) -> Response:
        request.json(Nothing)
        cookie = self._door.log_out(request, visitor)
        _audit("logout by=%s from=%s", visitor)
        return Response(204, headers=(("Set-Cookie", cookie),))


def _audit(template: str, visitor: Visitor, *more: object) -> None:
    """Log what a visitor did: who, from where, what and how many."""
    logger.info(template, visitor.who, visitor.address, *more)


def application(
    settings: Settings, *, access: Callable[[dict[str, Any]], Access], shows_events: bool = False
) -> Application:
    """Return the page as a WSGI application, to be mounted behind an application's own login.

    ``access`` gets the WSGI environment of each request and returns ``"none"``, ``"read"`` or ``"all"``. The name in
    ``REMOTE_USER`` is written into the log with each action. ``shows_events`` also shows the payload of failed events.
    """
    return Application(settings, MountedDoor(access), shows_events=shows_events)
