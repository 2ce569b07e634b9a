"""Requests to the data plane, and the meaning of its responses."""

from __future__ import annotations

import gzip
import json
import time

import pytest

from rudderpipe.delivery import data_plane, outcome, request
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.outcome import before_retry_s
from rudderpipe.delivery.response import NoResponse, Response
from rudderpipe.settings import Settings

NOW = "2026-11-23T10:00:00.000Z"


def test_a_body_has_the_node_sdks_form_and_a_new_sent_at() -> None:
    """Each event is sent now, whichever ``sentAt`` it had."""
    text = request.body([[b'{"a":1}', b'{"sentAt":"old","b":{"sentAt":"kept"}}', b'{"c":{"sentAt":"kept"}}']], NOW)

    body = json.loads(text)
    assert list(body) == ["batch", "timestamp", "sentAt"]
    assert body["sentAt"] == body["timestamp"] == NOW
    assert body["batch"] == [
        {"a": 1, "sentAt": NOW},
        {"sentAt": NOW, "b": {"sentAt": "kept"}},
        {"c": {"sentAt": "kept"}, "sentAt": NOW},
    ]


def test_a_compressed_body_can_be_decompressed() -> None:
    """The server expects what ``Content-Encoding: gzip`` promises."""
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
def test_a_status_is_delivered_retry_or_refused(status: int, kind: str) -> None:
    """2xx is delivered. 5xx and 429 may succeed later, and any other status never will."""
    assert outcome.of_answer(status, b"").kind == kind


def test_a_reason_is_bounded_and_on_one_line() -> None:
    """A page of HTML from a proxy must not flood the failed set."""
    reason = outcome.of_answer(502, b"<html>\n<body>" + b"\xff" * 100_000).reason

    assert reason.startswith("status 502: <html> <body>")
    assert len(reason) < 300
    assert "\n" not in reason


def test_a_reason_holds_no_control_character() -> None:
    """The reason is shown in a log and on a terminal."""
    reason = outcome.of_answer(500, b"\x1b[2Jgone\x00\x85").reason
    assert reason == "status 500: \\x1b[2Jgone\\x00\ufffd"


def test_the_backoff_doubles_up_to_30_seconds() -> None:
    """The wait before retry n is min(30 s, 2^n s)."""
    assert [before_retry_s(n) for n in (1, 2, 3, 4, 5, 6, 1000)] == [2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("url", "location", "there"),
    [
        ("https://a.example/v1/batch", "https://a.example:8443/v1/batch", "https://a.example:8443/v1/batch"),
        ("http://a.example/v1/batch", "https://a.example/v1/batch#x", "https://a.example/v1/batch"),
        ("https://a.example/v1/batch", "../v2/batch?q=1", "https://a.example/v2/batch?q=1"),
        ("https://a.example/v1/batch", "https://user@a.example/x", "https://a.example/x"),
        ("https://a.example/v1/batch", "/with blank?\xc3\xa4\x0b", "https://a.example/with%20blank?%C3%A4%0B"),
        ("https://a.example/v1/batch", "http://a.example/v1/batch", ""),
        ("https://a.example/v1/batch", "https://b.example/v1/batch", ""),
        ("https://a.example/v1/batch", "https://a.example.b.example/", ""),
        ("https://a.example/v1/batch", "", ""),
        ("https://a.example/v1/batch", "https://a.example:port/", ""),
    ],
)
def test_a_redirect_stays_on_its_host_and_never_leaves_https(url: str, location: str, there: str) -> None:
    """The write key goes with the request, and must not reach another host or an open connection."""
    found, why_not = data_plane.follow(url, location)
    assert found == there
    assert bool(why_not) == (not there)


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("https://a.example:8443/v1/batch", "https://a.example:8443/v1/batch"),
        ("https://b\u00fccher.example:8443/x", "https://xn--bcher-kva.example:8443/x"),
        ("https://b\u00fccher.example/x", "https://xn--bcher-kva.example/x"),
        ("http://a.example/w\u00e4g", "http://a.example/w%C3%A4g"),
        ("http://a.example/100%25?a=b%20c", "http://a.example/100%25?a=b%20c"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        (f"http://{chr(252) * 70}.example/", f"http://{chr(252) * 70}.example/"),
    ],
)
def test_a_url_is_written_in_ascii(url: str, written: str) -> None:
    """A server refuses a request whose head holds anything else."""
    assert data_plane.in_ascii(url) == written


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("Tue, 14 Nov 2023 22:13:50", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30.0),
        ("Tue, 14 Nov 2023 23:13:50 +0100", 30.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue Nov 14 22:13:50 2023", 30.0),
        ("1_0", None),
        ("1e3", None),
        ("+5", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float | None) -> None:
    """An invalid value is ignored, a time in the past means now, and the host's own time zone does not matter."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert outcome.asked_seconds(text, 1_700_000_000_000) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(("asked_s", "wait_s"), [(None, 8.0), (0.0, 8.0), (5.0, 8.0), (60.0, 60.0), (1e9, 300.0)])
def test_a_sender_waits_for_the_longer_of_its_own_delay_and_the_servers(asked_s: float | None, wait_s: float) -> None:
    """A shorter delay would use up the attempts at once. The limit is five minutes."""
    assert before_retry_s(3, asked_s) == wait_s


class WithoutGzip(DataPlane):
    """A data plane whose server refuses gzip. It records whether each request is packed, and its deadline."""

    def __init__(self, *plain: Response | NoResponse) -> None:
        super().__init__(Settings(data_plane_url="http://d"))
        self.plain = list(plain)
        """The result of each request without gzip."""
        self.requests: list[tuple[bool, float]] = []

    def _exchange(
        self, url: str, body: bytes, write_key: str, packed: bool, timeout_s: float, until_s: float
    ) -> Response:
        self.requests.append((packed, until_s))
        if packed:
            return Response(415, {})
        found = self.plain.pop(0)
        if isinstance(found, NoResponse):
            raise found
        return found


def test_a_request_without_gzip_has_the_rest_of_the_time() -> None:
    """An attempt with both requests must take no longer than another one."""
    plane = WithoutGzip(Response(200, {}))

    assert plane.post(b"{}", "KEY").kind == "delivered"
    (first, first_until_s), (second, second_until_s) = plane.requests
    assert (first, second) == (True, False)
    assert first_until_s == second_until_s


def test_an_attempt_begins_without_gzip_if_the_last_one_had_no_time_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise a server that is slow to refuse gzip would never get the events."""
    plane = WithoutGzip(NoResponse("no whole response in time", begun=True), Response(200, {}))

    assert [plane.post(b"{}", "KEY").kind for _ in range(2)] == ["retry", "delivered"]
    assert [packed for packed, _ in plane.requests] == [True, False, False]
    assert len(caplog.records) == 1
