"""What a path answers, without a socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

JSON = "application/json"


class Answer(msgspec.Struct, frozen=True):
    """A dict is sent as JSON, bytes as what ``content_type`` says."""

    status: int
    body: bytes | dict[str, Any]
    content_type: str = JSON

    def content(self) -> bytes:
        """The body as it is sent."""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body) + b"\n"


Answers = Mapping[str, Callable[[], Answer]]


def answer_of(path: str, answers: Answers) -> Answer:
    """That of a path; 404 names those that there are."""
    answer = answers.get(path)
    return answer() if answer else wrong(HTTPStatus.NOT_FOUND, paths=sorted(answers))


def wrong(status: HTTPStatus, **facts: Any) -> Answer:
    """An answer that is an error."""
    return Answer(int(status), {"error": status.phrase.lower(), **facts})
