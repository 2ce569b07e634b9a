"""Connections through proxies, and what proxies can do to them."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from native_tests.faulty_plane import FaultyPlane, RawServer, answer, drip_on, head_of, raw, whole
from native_tests.posting import BODY, KEY, checked, close_all, data_plane, post, towards
from native_tests.processes import wait_until
from native_tests.proxy import Proxy, context_of
from rudderpipe import Client


@pytest.fixture(name="plane")
def _plane() -> Iterator[FaultyPlane]:
    with FaultyPlane() as plane:
        yield plane


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture(name="authority", scope="module")
def _authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(name="proxy")
def _proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


def test_a_plain_proxy_gets_the_whole_url(plane: FaultyPlane, proxy: Proxy) -> None:
    """The request carries the proxy's user and password, and the connection is kept."""
    ours = data_plane(plane, proxy_url=f"http://user:proxy-password@127.0.0.1:{proxy.port}")
    assert [checked(ours.post(BODY, KEY)).kind for _ in range(2)] == ["delivered", "delivered"]

    assert len(proxy.heads) == 1
    assert proxy.heads[0].startswith(f"POST {plane.url}/v1/batch HTTP/1.1\r\n")
    assert "proxy-authorization: Basic " + base64.b64encode(b"user:proxy-password").decode() in proxy.heads[0]


def test_a_proxy_carries_tls_without_reading_it(proxy: Proxy, authority: trustme.CA, tmp_path: Path) -> None:
    """The proxy opens a tunnel by CONNECT and never sees the write key."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        settings = {
            "ca_file": str(tmp_path / "ca.pem"),
            "proxy_url": f"http://user:proxy-password@127.0.0.1:{proxy.port}",
        }
        assert post(plane, **settings).kind == "delivered"
        (head,) = proxy.heads
        assert head.startswith(f"CONNECT 127.0.0.1:{plane.port} HTTP/1.")
    assert base64.b64encode(b"user:proxy-password").decode() in head
    assert base64.b64encode(f"{KEY}:".encode()).decode() not in head


def test_no_event_goes_past_an_absent_proxy(plane: FaultyPlane) -> None:
    """The attempt is retried. Its reason does not show the proxy's password."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = post(plane, proxy_url=f"http://user:proxy-password@127.0.0.1:{port}")
    assert outcome.kind == "retry"
    wait_until(lambda: plane.requests == [])


@pytest.fixture(name="tls_proxy")
def _tls_proxy(authority: trustme.CA) -> Iterator[Proxy]:
    proxy = Proxy(context_of(authority.issue_cert("127.0.0.1")))
    yield proxy
    proxy.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_behind_tls_carries_plain_and_tls_requests(
    tls_proxy: Proxy, authority: trustme.CA, tmp_path: Path, tls: bool
) -> None:
    """The connection to the data plane may be TLS within TLS. It is kept and can be aborted as any other."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = context_of(authority.issue_cert("127.0.0.1")) if tls else None
    with FaultyPlane(context=context) as plane:
        ours = data_plane(
            plane,
            ca_file=str(tmp_path / "ca.pem"),
            proxy_url=f"https://user:proxy-password@127.0.0.1:{tls_proxy.port}",
            timeout_s=60,
        )
        assert [checked(ours.post(BODY, KEY)).kind for _ in range(3)] == ["delivered"] * 3
        assert (plane.connections, len(tls_proxy.heads)) == (1, 1)
        assert base64.b64encode(b"user:proxy-password").decode() in tls_proxy.heads[0]
        assert "proxy-authorization" not in plane.requests[0].headers or not tls
        plane.hold()
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(ours.post(BODY, KEY).reason))
        thread.start()
        plane.wait_for(lambda: len(plane.requests) == 4)
        ours.abort()
        thread.join(30)
        plane.let_go()
        assert found == ["stopped"]


def test_tls_within_tls_closed_while_idle_costs_no_attempt(
    tls_proxy: Proxy, authority: trustme.CA, tmp_path: Path
) -> None:
    """The request goes over a new connection at once, as for any connection."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        plane.then(raw(whole()), answer())
        ours = data_plane(plane, ca_file=str(tmp_path / "ca.pem"), proxy_url=f"https://127.0.0.1:{tls_proxy.port}")
        assert [checked(ours.post(BODY, KEY)).kind for _ in range(3)] == ["delivered"] * 3
        assert (plane.connections, len(plane.requests)) == (2, 3)


def replies(data: bytes, *, drips: bool = False, silent: bool = False) -> Callable[[socket.socket], None]:
    """Return a proxy's function that sends these bytes in response to the first request."""

    def serve(sock: socket.socket) -> None:
        head_of(sock)
        if drips:
            drip_on(sock, data)
        else:
            sock.sendall(data)
        if silent:
            sock.recv(1)

    return serve


ODD_PROXIES: dict[str, tuple[Callable[[socket.socket], None], str, str]] = {
    "another protocol": (replies(b"220 smtp.example.org ESMTP\r\n"), "blocked", "not an HTTP proxy"),
    "bytes": (replies(b"\x15\x03\x03\x00\x02\x02\x28\n"), "blocked", "not an HTTP proxy"),
    "an endless line": (replies(b"x" * 100_000), "blocked", "not an HTTP proxy"),
    "endless headers": (replies(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000), "blocked", "not an HTTP proxy"),
    "a wrong password": (replies(b"HTTP/1.1 407 Who are you\r\n\r\n"), "blocked", "407"),
    "a host that it does not reach": (replies(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), "retry", "status 502"),
    "a redirect": (replies(b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n"), "retry", "status 302"),
    "nothing": (replies(b""), "retry", "closed the connection without a response"),
    "half an answer": (replies(b"HTTP/1.1 200 OK\r\nx:"), "retry", "cut off"),
    "silence": (replies(b"", silent=True), "retry", "no connection in time"),
    "drips": (replies(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000, drips=True), "retry", "no connection in time"),
    "a tunnel to no TLS": (replies(b"HTTP/1.1 200 OK\r\n\r\n220 smtp\r\n"), "retry", "TLS failed"),
    "a tunnel that is closed": (replies(b"HTTP/1.1 200 OK\r\n\r\n"), "retry", ""),
    "a tunnel to silence": (replies(b"HTTP/1.1 200 OK\r\n\r\n", silent=True), "retry", ""),
}


@pytest.mark.parametrize("kind", ODD_PROXIES)
def test_no_response_of_a_proxy_to_connect_raises(kind: str) -> None:
    """The limit ``connect_timeout_s`` is for the whole tunnel.

    A problem that every attempt would meet is not counted as an attempt.
    """
    serve, expected, said = ODD_PROXIES[kind]
    with RawServer(serve) as server:
        ours = towards(
            "https://127.0.0.1:1", proxy_url=f"http://user:proxy-password@{server.address}", connect_timeout_s=0.5
        )
        outcome = checked(ours.post(BODY, KEY))
        assert (outcome.kind, outcome.status) == (expected, 0)
        assert said in outcome.reason
        assert server.ended.wait(30)


def test_the_reason_names_an_absent_proxy() -> None:
    """The proxy may come from an environment variable, and the data plane may be well. The password is not shown."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for plane_url in ("https://127.0.0.1:1", "http://127.0.0.1:1"):
        outcome = checked(towards(plane_url, proxy_url=f"http://user:proxy-password@127.0.0.1:{port}").post(BODY, KEY))
        expected = f"no connection: Connection refused (through the proxy 127.0.0.1:{port})"
        assert (outcome.kind, outcome.reason) == ("retry", expected)


def test_sync_mode_reports_a_broken_proxy(caplog: pytest.LogCaptureFixture) -> None:
    """The call ``track()`` returns False at once and raises nothing."""
    with RawServer(replies(b"220 smtp.example.org ESMTP\r\n")) as server:
        client = Client("KEY", "https://127.0.0.1:1", sync_mode=True, proxy_url=f"http://{server.address}")
        assert client.track("u", "e") is False
        assert client.counts() == {"failed": 1}
        assert "not an HTTP proxy" in caplog.text
        client.shutdown()


def test_a_plain_proxy_that_refuses_the_password_fails_no_event(plane: FaultyPlane) -> None:
    """The password must be corrected on this host, so the attempt is blocked, as with a tunnel."""
    plane.then(answer(407, b"who are you"))
    ours = towards("http://plane.example", proxy_url=f"http://user:proxy-password@127.0.0.1:{plane.port}")
    outcome = checked(ours.post(BODY, KEY))
    assert (outcome.kind, "proxy_url" in outcome.reason) == ("blocked", True)


def test_a_407_through_a_tunnel_comes_from_the_data_plane(proxy: Proxy, authority: trustme.CA, tmp_path: Path) -> None:
    """Only the data plane can send a response through a tunnel, so the proxy's password is not the reason."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(answer(407, b"?"), context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        proxy_url = f"http://127.0.0.1:{proxy.port}"
        assert post(plane, ca_file=str(tmp_path / "ca.pem"), proxy_url=proxy_url).kind == "refused"


def test_connect_timeout_s_bounds_a_slow_handshake_within_tls(
    tls_proxy: Proxy, authority: trustme.CA, tmp_path: Path
) -> None:
    """The inner handshake has the same limit as an outer one."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings: dict[str, Any] = {
        "ca_file": str(tmp_path / "ca.pem"),
        "proxy_url": f"https://127.0.0.1:{tls_proxy.port}",
        "connect_timeout_s": 1,
        "timeout_s": 0.5,
    }

    def drips(sock: socket.socket) -> None:
        sock.recv(1)
        drip_on(sock, b"\x16\x03\x03\x40\x00" + b"\x02" * 10_000)

    with RawServer(drips) as server:
        outcome = checked(towards(f"https://{server.address}", **settings).post(BODY, KEY))
        assert (outcome.kind, outcome.reason) == (
            "retry",
            f"no connection in time (through the proxy 127.0.0.1:{tls_proxy.port})",
        )
