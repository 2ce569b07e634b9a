"""Requests, and what their answers mean."""

from __future__ import annotations

import gzip
import json

import pytest

from rudderpipe.delivery import outcome, request
from rudderpipe.delivery.backoff import before_retry_s

NOW = "2026-11-23T10:00:00.000Z"


def test_the_body_is_the_node_sdks_with_a_fresh_sent_at() -> None:
    """Keys in the Node SDK's order; each event is sent now, whatever it said."""
    text = request.body([b'{"a":1}', b'{"sentAt":"old","b":{"sentAt":"kept"}}', b'{"c":{"sentAt":"kept"}}'], NOW)

    body = json.loads(text)
    assert list(body) == ["batch", "timestamp", "sentAt"]
    assert body["sentAt"] == body["timestamp"] == NOW
    assert body["batch"] == [
        {"a": 1, "sentAt": NOW},
        {"sentAt": NOW, "b": {"sentAt": "kept"}},
        {"c": {"sentAt": "kept"}, "sentAt": NOW},
    ]


def test_a_packed_body_unpacks() -> None:
    """What ``Content-Encoding: gzip`` promises."""
    assert gzip.decompress(request.gzip(b"x" * 10_000)) == b"x" * 10_000


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, "delivered"),
        (204, "delivered"),
        (301, "refused"),
        (302, "refused"),
        (400, "refused"),
        (401, "refused"),
        (404, "refused"),
        (413, "refused"),
        (429, "retry"),
        (500, "retry"),
        (503, "retry"),
        (599, "retry"),
        (600, "refused"),
    ],
)
def test_what_an_answer_means(status: int, kind: str) -> None:
    """2xx is delivered, 5xx and 429 may succeed later, all else never will."""
    assert outcome.of_answer(status, b"").kind == kind


def test_a_reason_is_bounded_and_on_one_line() -> None:
    """A page of HTML from a proxy does not flood the failed set."""
    reason = outcome.of_answer(502, b"<html>\n<body>" + b"\xff" * 100_000).reason

    assert reason.startswith("status 502: <html> <body>")
    assert len(reason) < 300
    assert "\n" not in reason


def test_the_backoff_doubles_up_to_half_a_minute() -> None:
    """min(30 s, 2^n s) before retry n."""
    assert [before_retry_s(n) for n in (1, 2, 3, 4, 5, 6, 1000)] == [2, 4, 8, 16, 30, 30, 30]
