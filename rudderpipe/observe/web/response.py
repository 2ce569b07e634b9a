"""One response of the page, and the headers that every response has."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from rudderpipe.observe.web.download import Download
from rudderpipe.observe.web.request import JSON, Refused

SECURITY = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
NO_BODY = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))


class Response(msgspec.Struct, frozen=True):
    """A response. A ``Download`` is sent piece by piece."""

    status: int
    body: bytes | Download = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def fields(self) -> list[tuple[str, str]]:
        """Return all headers of the response."""
        own = [*SECURITY, *self.headers]
        if self.status not in NO_BODY:
            own.append(("Content-Type", self.content_type))
            if isinstance(self.body, bytes):
                own.append(("Content-Length", str(len(self.body))))
        return own


def status_line(status: int) -> str:
    """Return a status with its phrase."""
    return f"{status} {HTTPStatus(status).phrase}"


def of_json(value: Any, *headers: tuple[str, str]) -> Response:
    """Return a response with a value as JSON."""
    return Response(200, msgspec.json.encode(value), headers=headers)


def of_refusal(refused: Refused) -> Response:
    """Return the response that says why a request got no result."""
    return Response(refused.status, msgspec.json.encode({"error": refused.sentence}), headers=refused.headers)
