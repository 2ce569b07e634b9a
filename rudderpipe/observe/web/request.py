"""One request to the page, as its application reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qs

import msgspec

T = TypeVar("T")
BODY_BYTES = 64 << 10
FIELDS = 2000
"""The most fields of a query."""
JSON = "application/json"
Environ = Mapping[str, Any]
"""What WSGI passes to an application for each request."""


class Refused(Exception):
    """The reason why a request gets no result: the status of the response, and a sentence for its JSON."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(status, sentence)
        self.status = status
        self.sentence = sentence
        self.headers = tuple((name.replace("_", "-"), value) for name, value in headers.items())


class Request:
    """One request. Its properties raise ``Refused`` if the client has sent something else than they return."""

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.method = str(environ.get("REQUEST_METHOD", "GET"))
        # WSGI passes the bytes of a path as characters. A job's id may be any bytes.
        self.path = str(environ.get("PATH_INFO", "")).encode("latin-1", "replace").decode(errors="surrogateescape")
        self.root = str(environ.get("SCRIPT_NAME", ""))
        """The path at which the application is mounted, without a slash at its end."""

    def header(self, name: str) -> str | None:
        """Return a header of the request, or None."""
        found = self.environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        return None if found is None else str(found)

    @property
    def query(self) -> dict[str, list[str]]:
        """The fields of the query, with the values of each."""
        try:
            return parse_qs(str(self.environ.get("QUERY_STRING", "")), max_num_fields=FIELDS, errors="surrogateescape")
        except ValueError:
            raise Refused(400, "The query has too many fields.") from None

    def text(self, name: str) -> str | None:
        """Return the first value of a field of the query; None if it is missing or empty."""
        return self.query.get(name, [None])[0]

    def number(self, name: str) -> int | None:
        """Return a field of the query as a whole number, or None."""
        text = self.text(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) <= 15):
            raise Refused(400, f"{name} must be a whole number.")
        return int(text)

    def json(self, kind: type[T]) -> T:
        """Return the body, which must be JSON of this type."""
        content_type = str(self.environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
        if content_type != JSON:
            raise Refused(400, f"The content type must be {JSON}.")
        try:
            return msgspec.json.decode(self._body() or b"{}", type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):  # the text of the error may hold what was sent
            raise Refused(400, "The body is not the JSON that is expected here.") from None

    def _body(self) -> bytes:
        text = str(self.environ.get("CONTENT_LENGTH") or "0")
        if not (text.isascii() and text.isdecimal()):
            raise Refused(400, "The content length must be a number.")
        if len(text) > 9 or int(text) > BODY_BYTES:
            raise Refused(413, f"The body must not be longer than {BODY_BYTES:,} bytes.")
        body: bytes = self.environ["wsgi.input"].read(int(text))
        return body
