"""Who may do what on the page of ``rudderpipe web``: every rule against the real server, as an attacker sees it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from native_tests.processes import Processes, wait_until
from native_tests.web_server import BEARER, OURS, TOKEN, Reply, WebServer
from rudderpipe.observe.web import failed, server
from rudderpipe.observe.web.application import Application
from rudderpipe.observe.web.door import OwnDoor
from rudderpipe.process.clock import Clock
from rudderpipe.queue.job import build
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer

P = "{rudder}:rudderEventsQueue:"
KEY = "the-secret-write-key"
Start = Callable[..., WebServer]
POSTS = ("api/failed/retry", "api/failed/delete", "api/queue/pause", "api/queue/resume", "logout")


@pytest.fixture(name="pipe")
def _pipe(processes: Processes, redis_server: RedisServer) -> Processes:
    """Return a pipe with a queue."""
    processes.explicit |= {"redis": redis_server.url, "write_key": KEY}
    return processes


@pytest.fixture(name="start")
def _start(pipe: Processes, directory: Path) -> Start:
    """Return a function that starts the page of the pipe."""

    def start(*options: str, token: str | None = TOKEN) -> WebServer:
        return WebServer(pipe, directory, *options, token=token)

    return start


@pytest.fixture(name="queue")
def _queue(pipe: Processes) -> Iterator[Queue]:
    queue = Queue(pipe.settings, Clock())
    yield queue
    queue.close()


def fail(
    queue: Queue, *reasons: str, events: bytes = b'{"type":"track","userId":"u","event":"Secret Purchase"}'
) -> None:
    """Put a job with one event into the failed set for each reason."""
    queue.add(0x1111, [(build(events, KEY, "t", 0x1111), 1) for _ in reasons], {}, [])
    for taken, reason in zip(queue.take(1000, 10_000_000), reasons, strict=True):
        assert queue.fail(taken, reason)


@contextlib.contextmanager
def served(pipe: Processes) -> Iterator[tuple[str, int]]:
    """Serve the page in this process, whose limits a test may change. Yield its address."""
    application = Application(pipe.settings, OwnDoor(None, (), "read", behind_https=False), shows_events=False)
    serving = server.Server(application, "127.0.0.1", 0, behind_https=False)
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        yield serving.address
    finally:
        serving.stop()
        thread.join()


# 1. Without a token nobody changes anything.


def test_without_a_token_nobody_changes_anything(start: Start, queue: Queue) -> None:
    """Not even a request that looks like one of the page."""
    fail(queue, "no")
    web = start(token=None)

    for path in POSTS:
        assert web.post(f"/{path}", {"ids": ["1"]}, **OURS).status == 403, path

    assert web.post("/login", {"token": ""}, **OURS).status == 404
    flow = web.get("/api/flow").json
    assert (flow["access"], flow["can_log_in"]) == ("read", False)
    assert (queue.counts().failed, queue.counts().paused) == (1, False)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (TOKEN, 0o640, "can be read by other users"),
        (TOKEN, 0o604, "can be read by other users"),
        ("x" * 31, 0o600, "at least 32 characters"),
        ("", 0o600, "is empty"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "one line"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_token_that_others_may_read_or_guess_is_refused(
    processes: Processes, directory: Path, content: str | None, mode: int, said: str
) -> None:
    """The error never shows the token."""
    file = directory / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)

    ended = processes.run("-m", "rudderpipe", "web", "--listen", "127.0.0.1:0", "--token-file", str(file))

    assert (ended.returncode, ended.stdout) == (2, b"")
    assert said in ended.stderr.decode()
    assert len(ended.stderr.splitlines()) == 1
    assert not content or content[:20] not in ended.stderr.decode()


@pytest.mark.parametrize(
    "options",
    [
        ("--listen", "0.0.0.0:0"),
        ("--listen", "[::]:0"),
        ("--listen", "example.com:0"),
        ("--listen", "127.0.0.1:0", "--allow-host", "pipe.example.com"),
        ("--listen", "127.0.0.1:0", "--behind-https"),
    ],
)
def test_a_page_that_others_can_reach_needs_a_token(processes: Processes, options: tuple[str, ...]) -> None:
    """It ends with 2, which tells a service manager that another start does not help."""
    ended = processes.run("-m", "rudderpipe", "web", *options)

    assert ended.returncode == 2
    assert b"option --token-file: is needed" in ended.stderr


@pytest.mark.parametrize("options", [("--listen", "0.0.0.0:0"), ("--allow-host", "x.example"), ("--behind-https",)])
def test_beyond_loopback_a_stranger_sees_nothing(start: Start, queue: Queue, options: tuple[str, ...]) -> None:
    """Except for the login and the files of the page, which hold nothing of the pipe."""
    fail(queue, "no")
    web = start(*options)

    for path in ("flow", "failed", "failed/1", "failed.ndjson", "producers", "doctor", "history", "nothing"):
        assert web.get(f"/api/{path}").status == 403, path
    reply = web.get("/")

    assert (reply.status, reply.headers["location"], reply.body) == (303, "login", b"")
    assert web.get("/api/flow", **BEARER).json["access"] == "all"


# 2. Only our own names, against DNS rebinding.


@pytest.mark.parametrize("path", ["/", "/api/flow", "/login", "/static/page.js", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9770", "127.0.0.1.evil.example", "localhost@evil", "", "a b"]
)
def test_a_name_that_is_not_ours_gets_nothing(start: Start, host: str, path: str) -> None:
    """A page of another site whose name was pointed to loopback reads nothing, and logs in nowhere."""
    web = start()

    assert web.get(path, Host=host).status == 421
    assert web.ask("POST", "/login", {"token": TOKEN}, Host=host, Origin=f"http://{host}").status == 421


def test_our_own_names_are_allowed(start: Start) -> None:
    """With any port, and in any case; HTTP/1.0 without a host is not."""
    web = start("--allow-host", "Pipe.example.com")

    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "127.1.2.3", "[::1]:9770", "pipe.EXAMPLE.com"):
        assert web.get("/api/flow", Host=host, **BEARER).status == 200, host
    assert web.raw(b"GET /api/flow HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 421 ")


# 3. Sessions.


def test_a_login_gives_a_cookie_that_only_the_browser_reads(start: Start) -> None:
    """Its id is random, and logs in only as long as it lives."""
    web = start()
    reply = web.ask("POST", "/login", {"token": TOKEN}, **OURS)
    cookie = reply.headers["set-cookie"]
    session = cookie.partition(";")[0]

    assert reply.status == 204
    assert re.fullmatch(rf"rudderpipe_{web.port}=[\w-]{{43}}; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict", cookie)
    assert web.get("/api/flow", Cookie=f"other=1; {session}").json["access"] == "all"
    assert web.get("/api/flow", Cookie=f"{session}x").json["access"] == "read"
    assert session != web.log_in()["Cookie"]
    assert TOKEN not in cookie


def test_a_logout_ends_the_session(start: Start) -> None:
    """Also for who has a copy of the cookie."""
    web = start()
    browser = web.log_in()

    reply = web.post("/logout", {}, **browser)

    assert reply.status == 204
    assert f"rudderpipe_{web.port}=; Path=/; Max-Age=0;" in reply.headers["set-cookie"]
    assert web.get("/api/flow", **browser).json["access"] == "read"
    assert web.post("/api/queue/pause", {}, **browser).status == 403
    assert "a script must send the token" in web.post("/api/queue/pause", {}, Cookie="a=b").json["error"]


def test_behind_https_the_cookie_is_sent_over_https_alone(start: Start) -> None:
    """The page itself sees only http, from the proxy."""
    reply = start("--behind-https").ask("POST", "/login", {"token": TOKEN}, **OURS)

    assert reply.headers["set-cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")


@pytest.mark.parametrize("way", ["login", "bearer"])
def test_after_five_wrong_tokens_an_address_has_to_wait(start: Start, way: str) -> None:
    """The right token is refused too, so that nobody learns it by trying. Sessions go on."""
    web = start()
    browser = web.log_in()

    def try_(token: str) -> int:
        if way == "login":
            return web.ask("POST", "/login", {"token": token}, **OURS).status
        return web.get("/api/flow", Authorization=f"Bearer {token}").status

    assert [try_(f"{TOKEN}{number}") for number in range(7)] == [403] * 5 + [429] * 2
    assert try_(TOKEN) == 429
    assert web.get("/api/flow", **browser).json["access"] == "all"


def test_wrong_tries_belong_to_one_address(start: Start) -> None:
    """An attacker cannot lock out the others. Behind a proxy, the proxy says the address, in its last word."""
    web = start("--behind-https")
    for _ in range(6):
        web.ask("POST", "/login", {"token": "x"}, X_Forwarded_For="9.9.9.9, 1.2.3.4", **OURS)

    def log_in(forwarded: str) -> int:
        return web.ask("POST", "/login", {"token": TOKEN}, X_Forwarded_For=forwarded, **OURS).status

    assert log_in("5.6.7.8, 1.2.3.4") == 429
    assert log_in("1.2.3.4, 9.9.9.9") == 204


# 4. No other site acts for a visitor.


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://HOST"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://HOST.evil.example"},
        {"Origin": "http://evil.example/HOST"},
        {"Origin": "null"},
        {"Origin": "HOST"},
        {"Referer": "http://HOST/"},
        {},
    ],
)
@pytest.mark.parametrize("path", [*POSTS, "login"])
def test_a_request_of_another_site_changes_nothing(
    start: Start, queue: Queue, headers: dict[str, str], path: str
) -> None:
    """Neither with the cookie of a visitor, nor to log the visitor in."""
    fail(queue, "no")
    web = start()
    cookie = web.log_in()["Cookie"]
    own = {name: value.replace("HOST", f"127.0.0.1:{web.port}") for name, value in headers.items()}

    reply = web.ask("POST", f"/{path}", {"ids": ["1"]} if path != "login" else {"token": TOKEN}, Cookie=cookie, **own)

    assert (reply.status, "set-cookie" in reply.headers) == (403, False)
    assert (queue.counts().failed, queue.counts().paused) == (1, False)
    assert web.get("/api/flow", Cookie=cookie).json["access"] == "all"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_can_send_is_refused(start: Start, content_type: str) -> None:
    """A form of another site cannot send JSON."""
    web = start()
    browser = web.log_in()

    assert web.ask("POST", "/api/queue/pause", b"{}", Content_Type=content_type, **browser).status == 400
    assert web.ask("POST", "/login", b'{"token":"x"}', Content_Type=content_type, **OURS).status == 400


def test_a_browser_without_fetch_metadata_is_known_by_its_origin(start: Start, queue: Queue) -> None:
    """Browsers send the metadata only to loopback and over https."""
    web = start()
    cookie = web.log_in()["Cookie"]

    reply = web.ask("POST", "/api/queue/pause", {}, Cookie=cookie, Origin=f"http://127.0.0.1:{web.port}")

    assert reply.json == {"paused": True}
    assert queue.counts().paused


@pytest.mark.parametrize("path", POSTS)
def test_what_changes_something_cannot_be_fetched(start: Start, path: str) -> None:
    """An image or a link of another site sends GET."""
    web = start()
    browser = web.log_in()

    reply = web.get(f"/{path}", **browser)

    assert (reply.status, reply.headers["allow"]) == (405, "POST")


# 5. The headers of every response.

SECURE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def is_secure(reply: Reply) -> bool:
    """Return True if a response has every header of a page that is safe, and none that names a program."""
    return {name: reply.headers.get(name) for name in SECURE} == SECURE and "server" not in reply.headers


def parsed(data: bytes) -> Reply:
    """Return a response that was read from a socket."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Reply(int(first.split(" ")[1]), {k.lower(): v for k, _, v in (each.partition(": ") for each in lines)}, body)


def test_every_response_has_the_headers_of_security(start: Start, redis_server: RedisServer) -> None:
    """Also every error, and what never reaches the application."""
    web = start("--show-events")
    tag = web.get("/api/flow").headers["etag"]
    browser = web.log_in()
    replies = {
        "flow": web.get("/api/flow"),
        "not modified": web.get("/api/flow", If_None_Match=tag),
        "login": web.get("/login"),
        "static": web.get("/static/page.css"),
        "head": web.ask("HEAD", "/api/flow"),
        "download": web.get("/api/failed.ndjson", **browser),
        "not found": web.get("/nothing"),
        "no method": web.ask("DELETE", "/api/flow"),
        "no host": web.get("/", Host="evil.example"),
        "forbidden": web.ask("POST", "/api/queue/pause", {}),
        "bad json": web.post("/api/queue/pause", "{", Content_Type="application/json", **browser),
        "too long": parsed(web.raw(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n")),
        "no http": parsed(web.raw(b"rubbish\r\n\r\n")),
        "head too long": parsed(web.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".ljust(16_384, b"x"))),
        "encoding": parsed(web.raw(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n")),
        "logout": web.post("/logout", {}, **browser),
    }
    redis_server.kill()
    replies["redis away"] = web.get("/api/failed")

    statuses = {name: reply.status for name, reply in replies.items()}
    assert [name for name, reply in replies.items() if not is_secure(reply)] == []
    others = {"not modified": 304, "logout": 204, "forbidden": 403, "not found": 404, "no method": 405, "too long": 413}
    others |= {
        "no host": 421,
        "head too long": 431,
        "encoding": 501,
        "redis away": 503,
        "bad json": 400,
        "no http": 400,
    }
    assert statuses == {**dict.fromkeys(("flow", "login", "static", "head", "download"), 200), **others}
    for name, reply in replies.items():
        if reply.status >= 400:
            assert list(reply.json) == ["error"], name


# 6. Payloads are personal data.


def everything(web: WebServer, **headers: str) -> str:
    """Return all that a visitor can read."""
    paths = ("flow", "failed", "failed/1", "failed.ndjson", "producers", "doctor", "history")
    return "".join(web.get(f"/api/{path}", **headers).body.decode() for path in paths)


def test_events_are_shown_only_if_the_operator_wants_it(start: Start, queue: Queue) -> None:
    """Who only looks gets no download either."""
    fail(queue, "no")
    hidden, shown = start(), start("--show-events")

    assert "Secret Purchase" not in everything(hidden, **BEARER)
    assert hidden.get("/api/failed/1").json["messages"] is None
    assert hidden.get("/api/failed/1").json["types"] == {"track": 1}
    assert hidden.get("/api/failed.ndjson", **BEARER).status == 403
    assert shown.get("/api/failed/1").json["messages"][0]["event"] == "Secret Purchase"
    assert shown.get("/api/failed.ndjson").status == 403
    assert shown.get("/api/failed.ndjson", **BEARER).json["event"] == "Secret Purchase"


def test_no_response_and_no_line_of_the_log_has_a_secret(start: Start, queue: Queue) -> None:
    """Not the write key, also when a data plane repeats it in its response or an event holds it, and not the token."""
    fail(queue, f"400: the key {KEY} is bad", events=b'{"type":"track","userId":"%b"}' % KEY.encode())
    web = start("--show-events")
    browser = web.log_in()

    found = everything(web, **browser)
    web.post("/api/failed/retry", {"ids": ["1"]}, **browser)

    assert "400: the key … is bad" in found
    assert KEY not in found + web.log
    assert TOKEN not in found + web.log


EVIL = "<script>alert(1)</script>\x1b[31m\r\nSet-Cookie: a=b\u202e" + "x" * 500


def test_a_reason_is_one_short_line(start: Start, queue: Queue) -> None:
    """It comes from a server that may be anyone's. The page shows it as text, and a terminal too."""
    fail(queue, EVIL)
    web = start()

    (job,) = web.get("/api/failed").json["jobs"]
    shown = web.get("/api/failed/1").json["reason"]

    assert job["reason"] == shown
    assert shown.startswith("<script>alert(1)</script>\\x1b[31m\\r\\nSet-Cookie: a=b\\u202exxx")
    assert len(shown) <= 220
    assert shown.isprintable()
    assert web.get("/api/failed").headers["content-type"] == "application/json"


# 7. Limits.


def test_a_body_has_at_most_64_kib(start: Start) -> None:
    """A longer one is not even read. One of chunks neither."""
    web = start()
    body = b'{"ids":["' + b"x" * (64 * 1024 - 12) + b'"]}'
    head = b"POST /api/failed/retry HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {TOKEN}\r\nConnection: close\r\n".encode()

    assert len(body) == 65_536
    assert web.post("/api/failed/retry", body, Content_Type="application/json", **BEARER).json["left_alone"] == 1
    assert parsed(web.raw(head + b"Content-Length: 65537\r\n\r\n")).status == 413
    endless = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert parsed(web.raw(endless + b"8000\r\n" + b"x" * 0x8000 + b"\r\n1\r\nx\r\n0\r\n\r\n")).status == 413


@pytest.mark.parametrize(
    "body",
    ["[" * 10_000, '{"x":' + "[" * 30_000, '{"ids":' + "[" * 30_000, '{"count":' + "9" * 60_000 + "}", "\xff", "null"],
)
def test_json_of_any_form_is_answered(start: Start, body: str) -> None:
    """It may be nested deeper than any parser goes."""
    web = start()

    reply = web.post("/api/failed/retry", body.encode("latin-1"), Content_Type="application/json", **BEARER)

    assert (reply.status, web.get("/api/flow").status) == (400, 200)


def connections(web: WebServer) -> int:
    """Return how many connections the server has."""
    return len([each for each in psutil.Process(web.process.pid).net_connections() if each.status == "ESTABLISHED"])


def test_400_silent_clients_keep_nobody_out(start: Start) -> None:
    """The server keeps 32 connections, and lets those go that have waited longest. Its threads stay few."""
    web = start()
    with contextlib.ExitStack() as open_:
        silent = [open_.enter_context(web.connect()) for _ in range(400)]

        assert web.get("/api/flow").status == 200
        wait_until(lambda: connections(web) <= 33)
        assert psutil.Process(web.process.pid).num_threads() < 20
        assert silent[0].recv(1) == b""


def test_one_client_too_many_drops_the_one_that_has_waited_longest(
    pipe: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before its time is over. A client that has just had a response is not the one."""
    monkeypatch.setattr(server, "SILENCE_S", float("inf"))
    with served(pipe) as address, contextlib.ExitStack() as open_:

        def connect() -> socket.socket:
            return open_.enter_context(socket.create_connection(address, 60))

        first, active = connect(), HTTPConnection(*address, timeout=60)
        open_.callback(active.close)
        others = [connect() for _ in range(29)]
        active.request("GET", "/api/history")
        assert active.getresponse().read()
        others += [connect() for _ in range(2)]

        assert first.recv(1) == b""
        active.request("GET", "/api/history")
        assert active.getresponse().status == 200
        others[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert others[-1].recv(8) == b"HTTP/1.0"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"]
)
def test_a_client_that_sends_no_whole_request_is_dropped(start: Start, sent: bytes) -> None:
    """Also one that goes on to send a byte now and then."""
    web = start()
    with web.connect() as connection:
        connection.sendall(sent)
        ended = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while sent and not ended.wait(0.5):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        finally:
            ended.set()
            thread.join()


def test_a_client_that_takes_no_response_is_dropped(start: Start, queue: Queue) -> None:
    """It would otherwise hold a thread, and with some of them the page."""
    fail(queue, *["no"] * 8, events=b'{"type":"track","userId":"%b"}' % (b"x" * 1_000_000))
    web = start("--show-events")
    with contextlib.ExitStack() as open_:
        for _ in range(3):
            connection = open_.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", web.port))
            head = f"GET /api/failed.ndjson HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            connection.sendall(head.encode())
        wait_until(lambda: connections(web) == 3)
        wait_until(lambda: connections(web) == 0)

        assert len(web.get("/api/failed.ndjson", **BEARER).body) > 8_000_000


def test_calls_that_wait_leave_room_for_the_flow(
    pipe: Processes, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that does not respond holds up only what needs it, and says so to who comes too many."""
    monkeypatch.setattr(failed, "PATIENCE_S", 60.0)
    assert redis_server.process is not None
    pid = redis_server.process.pid
    replies: list[Any] = []
    with served(pipe) as address:

        def get(path: str) -> Any:
            with contextlib.closing(HTTPConnection(*address, timeout=90)) as connection:
                connection.request("GET", path)
                return json.loads(connection.getresponse().read())

        os.kill(pid, signal.SIGSTOP)
        try:
            threads = [threading.Thread(target=lambda: replies.append(get("/api/failed"))) for _ in range(20)]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(replies) == 14)
            flow = get("/api/flow")
        finally:
            os.kill(pid, signal.SIGCONT)
        for thread in threads:
            thread.join()

    assert flow["queue_state"] is None
    assert flow["queue_trouble"]
    assert (
        sorted(reply.get("error", "") for reply in replies)
        == [""] * 6 + ["The page is busy with other requests; try again."] * 14
    )


# 8. and 9. What is not there, and what is not believed.


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/status.json"])
def test_probes_and_metrics_are_not_behind_the_page(start: Start, path: str) -> None:
    """They belong to the admin addresses of flusher and sender, which need no token."""
    assert start().get(path, **BEARER).status == 404


def test_what_a_client_says_of_a_proxy_is_not_believed(start: Start) -> None:
    """Neither for the log nor for the host."""
    web = start()
    forwarded = {"X_Forwarded_For": "6.6.6.6", "X_Forwarded_Host": "localhost", "X_Forwarded_Proto": "https"}

    reply = web.ask("POST", "/login", {"token": TOKEN}, **OURS, **forwarded)

    assert "Secure" not in reply.headers["set-cookie"]
    assert "6.6.6.6" not in web.log
    assert web.get("/api/flow", Host="evil.example", **forwarded).status == 421


# What else an attacker tries.


@pytest.mark.parametrize(
    "path",
    [
        "/static/../application.py",
        "/static/%2e%2e/application.py",
        "/static/..%2fapplication.py",
        "/static//etc/passwd",
        "/static/%2Fetc%2Fpasswd",
        "/static/page.css%00.html",
        "/static/",
        "/static",
        "/index.html",
        "//evil.example/",
        "/%5cevil.example/",
        "http:/evil.example",
    ],
)
def test_no_path_leads_elsewhere(start: Start, path: str) -> None:
    """Neither to another file nor to another site."""
    reply = start().get(path, **BEARER)

    assert (reply.status, "location" in reply.headers) == (404, False)


@pytest.mark.parametrize(
    "job_id", ["%0d%0aSet-Cookie:%20a=b", "a%2Fb", "%ff%fe", "..%2f..", "%00", "%E2%80%AE", "x" * 3000]
)
def test_the_id_of_a_job_is_only_an_id(start: Start, job_id: str) -> None:
    """It may be any bytes, because another program may have stored any."""
    web = start()

    reply = web.get(f"/api/failed/{job_id}")

    assert (reply.status, "set-cookie" in reply.headers) == (404, False)


def test_jobs_with_strange_ids_are_shown(start: Start, queue: Queue, redis_server: RedisServer) -> None:
    """One with a slash can be asked for; one that is no text is shown, and left alone."""
    fail(queue, "no")
    client: Any = redis_server.client()
    for job_id in (b"a/b", b"\xff\xfe"):
        client.hset(P.encode() + job_id, mapping=client.hgetall(f"{P}1"))
        client.zadd(f"{P}failed", {job_id: 5})
    web = start()

    ids = [job["id"] for job in web.get("/api/failed").json["jobs"]]

    assert ids == ["1", "\\udcff\\udcfe", "a/b"]
    assert web.get("/api/failed/a%2Fb").json["reason"] == "no"
    assert web.get("/api/failed/%ff%fe").json["reason"] == "no"
    deleted = web.post("/api/failed/delete", {"ids": ids}).json
    assert deleted == {"changed": 2, "left_alone": 1, "more": False, "after": None}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=999999999", 200),
        ("limit=0", 200),
        ("limit=-1", 400),
        ("limit=1e9", 400),
        ("limit=" + "9" * 400, 400),
        ("since_ms=x", 400),
        ("after=x", 400),
        ("after=1", 400),
        ("after=99:%ff", 200),
        ("q=" + "x" * 201, 400),
        ("&".join(f"a{number}=1" for number in range(2100)), 400),
    ],
)
def test_a_query_of_any_form_is_answered(start: Start, query: str, status: int) -> None:
    """No number makes the server read more than a page."""
    assert start().get(f"/api/failed?{query}").status == status


def test_a_huge_limit_gets_200_jobs(start: Start, queue: Queue) -> None:
    """And the next page the rest."""
    fail(queue, *["no"] * 250)
    web = start()

    page = web.get("/api/failed?limit=100000").json
    rest = web.get(f"/api/failed?limit=100000&after={page['next']}").json

    assert (len(page["jobs"]), len(rest["jobs"]), page["total"], rest["next"]) == (200, 50, 250, None)


def test_one_examination_at_a_time(start: Start, redis_server: RedisServer) -> None:
    """The doctor asks Redis, the data plane and the host; a visitor cannot make it do that without end."""
    web = start()
    redis: Any = redis_server.client()
    examined: list[Any] = []
    before = redis.info("stats")["total_connections_received"]
    threads = [threading.Thread(target=lambda: examined.append(web.get("/api/doctor"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    results = {reply.body for reply in examined if reply.status == 200}
    assert {reply.status for reply in examined} <= {200, 503}
    assert {web.get("/api/doctor").body} == results
    assert redis.info("stats")["total_connections_received"] - before <= 4


# The process.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(start: Start, number: signal.Signals) -> None:
    """Also while a client is connected."""
    web = start()
    with web.connect():
        web.process.send_signal(number)

        assert web.process.wait(30) == 0


def test_it_says_where_it_is(start: Start, processes: Processes) -> None:
    """The first line has the address that the system chose."""
    web = start()

    assert web.said == f"page of pipe {processes.settings.pipe_name}: http://127.0.0.1:{web.port}/\n"


def test_an_address_that_is_taken_is_an_error_in_one_line(start: Start, processes: Processes) -> None:
    """The port is that of another page."""
    web = start()

    ended = processes.run("-m", "rudderpipe", "web", "--listen", f"127.0.0.1:{web.port}")

    assert ended.returncode == 2
    assert ended.stderr.decode() == (
        f"rudderpipe: option --listen: cannot listen on 127.0.0.1:{web.port}: Address already in use\n"
    )


def test_without_the_extra_it_says_how_to_install_it(processes: Processes) -> None:
    """The rest of the command line needs no waitress."""
    program = (
        "import sys; sys.modules['waitress'] = None; from rudderpipe.cli.main import main; sys.exit(main(['web']))"
    )

    ended = processes.run("-c", program)

    assert ended.returncode == 4
    assert ended.stderr.decode() == (
        "rudderpipe: waitress is not installed; install it with: pip install 'rudderpipe[web]'\n"
    )
