"""The page's parts that need no socket: sessions over time, the history, and the application as a mount calls it."""

from __future__ import annotations

from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe.observe.web import application
from rudderpipe.observe.web.door import Access
from rudderpipe.observe.web.history import History
from rudderpipe.observe.web.request import Refused
from rudderpipe.observe.web.sessions import ADDRESSES, SESSION_S, SESSIONS, Sessions
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, settings_of

TOKEN = "a token of more than thirty-two letters"


@pytest.fixture(name="sessions")
def _sessions(clock: FakeClock) -> Sessions:
    return Sessions(TOKEN, clock)


def is_refused(sessions: Sessions, token: str, address: str) -> int:
    """Return the status with which a token is refused, or 0."""
    try:
        sessions.check(token, address)
    except Refused as refused:
        return refused.status
    return 0


def test_a_session_ends_after_twelve_hours(sessions: Sessions, clock: FakeClock) -> None:
    """Also one that is used all the time."""
    session = sessions.begin()
    for _ in range(11):
        clock.now_s += 3600
        assert sessions.lives(session)
    clock.now_s += 3600

    assert not sessions.lives(session)
    assert SESSION_S == 12 * 3600


def test_only_the_last_sessions_are_kept(sessions: Sessions) -> None:
    """Who has the token cannot fill the memory."""
    first, *others = [sessions.begin() for _ in range(SESSIONS + 1)]

    assert not sessions.lives(first)
    assert all(map(sessions.lives, others))


def test_an_address_may_try_again_after_a_minute(sessions: Sessions, clock: FakeClock) -> None:
    """Wrong tries while it waits do not make it wait longer, so that a typing error has an end."""
    assert [is_refused(sessions, "x", "1.2.3.4") for _ in range(6)] == [403] * 5 + [429]
    assert is_refused(sessions, TOKEN, "1.2.3.4") == 429
    assert is_refused(sessions, TOKEN, "1.2.3.5") == 0
    clock.now_s += 61

    assert is_refused(sessions, TOKEN, "1.2.3.4") == 0


def test_a_host_with_many_addresses_is_one(sessions: Sessions) -> None:
    """A host chooses the last 64 bits of an IPv6 address by itself."""
    for number in range(5):
        assert is_refused(sessions, "x", f"2001:db8::{number}") == 403

    assert is_refused(sessions, TOKEN, "2001:db8::ffff") == 429
    assert is_refused(sessions, TOKEN, "2001:db8:0:1::1") == 0


def test_hosts_that_come_over_ipv4_are_told_apart(sessions: Sessions) -> None:
    """A server that listens on all addresses sees them within one network of IPv6."""
    for _ in range(5):
        assert is_refused(sessions, "x", "::ffff:1.2.3.4") == 403

    assert is_refused(sessions, TOKEN, "::ffff:1.2.3.4") == 429
    assert is_refused(sessions, TOKEN, "::ffff:1.2.3.5") == 0


def test_many_addresses_do_not_fill_the_memory(sessions: Sessions) -> None:
    """The address with the oldest try is forgotten."""
    for number in range(ADDRESSES + 500):
        is_refused(sessions, "x", f"10.0.{number // 256}.{number % 256}")

    assert len(sessions._wrong) == ADDRESSES


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], f"{TOKEN} ", TOKEN.upper(), "\ud800", "é"])
def test_only_the_token_is_the_token(sessions: Sessions, token: str) -> None:
    """Also text that is not ASCII, or no text at all, is compared."""
    assert is_refused(sessions, token, "1.2.3.4") == 403
    assert not sessions.lives(token)


def flow_at(seconds: float, accepted: int = 0) -> dict[str, Any]:
    """Return the parts of a flow that the history needs."""
    return {
        "taken_at_s": seconds,
        "taken_at_ms": int(seconds * 1000),
        "account": {"accepted": accepted, "delivered": 2},
        "producers": {"refused": 3},
        "ring": {"oldest_age_s": 1.5},
        "queue_state": {"oldest_job_age_s": 7.5},
        "sender": {"report": {"attempts": {"retry": 4, "delivered": 9}}},
    }


def test_the_history_is_an_hour_in_steps_of_ten_seconds() -> None:
    """However often the flow is looked at."""
    history = History()
    for second in range(2 * 3600):
        history.note(flow_at(second, second))

    points = history.points()
    assert len(points) == 361
    assert points[-1] == (7_190_000, 7190, 2, 3, 4, 7.5)
    assert [later[0] - earlier[0] for earlier, later in pairwise(points)] == [10_000] * 360


def test_what_is_not_known_is_no_zero() -> None:
    """Without Redis, ring or report."""
    history = History()
    history.note(flow_at(1) | {"ring": None, "queue_state": None, "sender": None})

    assert history.points()[0][4:] == (None, None)


class Mounted:
    """The page below ``/pipe``, in direct mode."""

    def __init__(self, settings: Settings, access: Any) -> None:
        self.application = application(settings, access=access)

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **more: str) -> tuple[int, dict[str, str], bytes]:
        """Call the application as a server does."""
        found: list[Any] = []
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "/pipe",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_HOST": "any.example",
            "wsgi.input": BytesIO(body),
            **more,
        }
        pieces = self.application(environ, lambda *started: found.extend(started))
        status, headers = found
        return int(status[:3]), dict(headers), b"".join(pieces)


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    own = {"write_key": "secret", "data_plane_url": "http://127.0.0.1:9", "spool_dir": str(tmp_path / "state")}
    return settings_of(tmp_path / "run", **own)


@pytest.mark.parametrize(("access", "flow", "delete"), [("none", 403, 403), ("read", 200, 403), ("all", 200, 200)])
def test_a_mounted_page_asks_its_application(settings: Settings, access: Access, flow: int, delete: int) -> None:
    """There is no login of its own then, and the host is the application's business."""
    seen: list[Any] = []

    def answer(environ: dict[str, Any]) -> Access:
        seen.append(environ["HTTP_COOKIE"])
        return access

    page = Mounted(settings, answer)
    wanted = {"body": b'{"ids":["1"]}', "CONTENT_TYPE": "application/json", "HTTP_SEC_FETCH_SITE": "same-origin"}

    assert page.ask("/api/flow", HTTP_COOKIE="a=b")[0] == flow
    assert page.ask("/api/failed/delete", "POST", HTTP_COOKIE="a=b", **wanted)[0] == delete  # type: ignore[arg-type]
    assert page.ask("/login", HTTP_COOKIE="a=b")[0] == (403 if access == "none" else 404)
    assert seen == ["a=b"] * 3


@pytest.mark.parametrize("access", [None, True, "ALL", "admin", 1, ""])
def test_an_access_that_is_none_is_none(settings: Settings, access: Any) -> None:
    """A mistake in the application must not open the page."""
    assert Mounted(settings, lambda _: access).ask("/api/flow")[0] == 403


def test_an_application_that_fails_opens_nothing(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The visitor learns nothing about it either."""

    def broken(_: Any) -> Access:
        raise KeyError("user 4711")

    status, _, body = Mounted(settings, broken).ask("/api/flow")

    assert (status, b"4711" in body, "user 4711" in caplog.text) == (500, False, True)


def test_a_mounted_page_has_relative_addresses(settings: Settings) -> None:
    """Without the slash at its end they would lead beside it."""
    status, headers, _ = Mounted(settings, lambda _: "read").ask("")

    assert (status, headers["Location"]) == (308, "./pipe/")


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "9" * 5000, "٣"])
def test_a_length_of_any_form_is_answered(settings: Settings, length: str) -> None:
    """A server passes it as the client sent it."""
    page = Mounted(settings, lambda _: "all")
    more = {"CONTENT_LENGTH": length, "CONTENT_TYPE": "application/json", "HTTP_SEC_FETCH_SITE": "same-origin"}

    status = page.ask("/api/failed/delete", "POST", b"", **more)[0]

    assert status in (400, 413)


def test_every_file_of_the_page_is_served_with_its_type(settings: Settings) -> None:
    """A browser runs no script and uses no style that has another type. The files come out of the package."""
    page = Mounted(settings, lambda _: "read")
    folder = files("rudderpipe.observe.web") / "static"
    names = [each.name for each in folder.iterdir()]
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

    assert {"index.html", "login.html", "page.css", "page.js"} <= set(names)
    for name in names:
        status, headers, body = page.ask(f"/static/{name}")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kinds[name.rpartition(".")[2]])
        assert body == (folder / name).read_bytes()
    assert page.ask("/")[2] == (folder / "index.html").read_bytes()


def test_an_action_is_logged_with_the_name_of_the_user(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The name comes from the application, and is one safe line."""
    page = Mounted(settings, lambda _: "all")
    more = {"CONTENT_TYPE": "application/json", "HTTP_SEC_FETCH_SITE": "same-origin", "REMOTE_ADDR": "10.0.0.1"}
    with caplog.at_level("INFO", "rudderpipe.web"):
        page.ask("/api/failed/delete", "POST", b'{"ids":["1"]}', REMOTE_USER="ann\nroot", **more)

    assert [record.getMessage() for record in caplog.records] == [
        "failed jobs deleted by=ann\\nroot from=10.0.0.1 jobs=0 left_alone=1"
    ]


def test_the_write_key_is_in_no_response(settings: Settings) -> None:
    """It is a part of the settings that the page reads."""
    page = Mounted(settings, lambda _: "all")

    found = [page.ask(f"/api/{path}")[2] for path in ("flow", "failed", "producers", "history")]

    assert all(msgspec.json.decode(body) for body in found)
    assert b"secret" not in b"".join(found)
