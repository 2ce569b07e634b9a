"""How a connection is made or fails: addresses, descriptors and TLS."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from urllib3.util import wait_for_read

from native_tests.faulty_plane import FaultyPlane, RawServer, Request, answer, drip_on, head_of, whole
from native_tests.posting import BODY, KEY, checked, close_all, data_plane, post, towards
from native_tests.processes import wait_until
from native_tests.proxy import context_of
from rudderpipe import Client


@pytest.fixture(name="plane")
def _plane() -> Iterator[FaultyPlane]:
    with FaultyPlane() as plane:
        yield plane


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    close_all()


def test_a_refused_connection_is_retried() -> None:
    """A data plane that restarts refuses connections for a moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = checked(towards(f"http://127.0.0.1:{port}").post(BODY, KEY))
    assert (outcome.kind, outcome.reason) == ("retry", "no connection: Connection refused")


@pytest.mark.parametrize("order", [1, -1])
def test_an_address_of_an_unsupported_family_is_skipped(
    plane: FaultyPlane, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """Names resolve to IPv6 addresses also where the kernel has no IPv6. The outcome is that of the other address."""
    real = socket.getaddrinfo

    def both(host: str, port: int, **options: Any) -> Any:
        return [(200, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)), *real(host, port, **options)][::order]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert data_plane(plane).post(BODY, KEY).kind == "delivered"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = checked(towards(f"http://127.0.0.1:{port}").post(BODY, KEY))
    assert (outcome.kind, outcome.reason) == ("retry", "no connection: Connection refused")


def test_an_unknown_host_name_is_retried() -> None:
    """The resolver may be down for a moment, and the reason says that there is no connection."""
    outcome = checked(towards("http://no-such-host.invalid").post(BODY, KEY))
    assert outcome.kind == "retry"
    assert outcome.reason.startswith("no connection")


def test_connect_timeout_s_bounds_a_connection() -> None:
    """A listener with a full queue accepts no connection and refuses none."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        url = f"127.0.0.1:{address[1]}"
        for scheme in ("http", "https"):
            ours = towards(f"{scheme}://{url}", connect_timeout_s=0.3, timeout_s=0.3)
            assert checked(ours.post(BODY, KEY)).kind == "retry"
        for each in waiting:
            each.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_pending_connection_can_be_aborted(scheme: str) -> None:
    """A stop must not wait until ``connect_timeout_s`` is over."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        ours = towards(f"{scheme}://127.0.0.1:{address[1]}", connect_timeout_s=600, timeout_s=600)
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(ours.post(BODY, KEY).reason))
        thread.start()
        wait_until(lambda: connecting_to(address[1]) > len(waiting) - 2)
        ours.abort()
        thread.join(30)
        for each in waiting:
            each.close()
        assert found == ["stopped"]


def connecting_to(port: int) -> int:
    """Return the number of our connections to this port that have no response yet."""
    return sum(
        1
        for connection in psutil.Process().net_connections("tcp")
        if connection.raddr and connection.raddr.port == port and connection.status == psutil.CONN_SYN_SENT
    )


def test_a_host_without_descriptors_blocks_the_attempt(plane: FaultyPlane) -> None:
    """This host is the reason, so no attempt is counted.

    It holds for an address and for a name that must be looked up.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for url in (plane.url, f"http://no-such-host.invalid:{plane.port}"):
        ours = towards(url)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            outcome = ours.post(BODY, KEY)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert (checked(outcome).kind, outcome.reason) == ("blocked", "no connection: Too many open files")
    assert data_plane(plane).post(BODY, KEY).kind == "delivered"


def test_an_impossible_host_name_blocks_the_attempt() -> None:
    """No event is the reason, so no attempt is counted."""
    assert checked(towards(f"http://{'x' * 70}.example").post(BODY, KEY)).kind == "blocked"


class Interruption(Exception):
    """An exception of an application's signal handler."""


def test_an_exception_of_a_signal_handler_closes_the_connection(plane: FaultyPlane) -> None:
    """The rest of the interrupted response must not be taken for the response to the next request."""

    def late(sock: socket.socket, _request: Request) -> bool:
        wait_for_read(sock, timeout=30)  # until the next request or the end of the connection
        sock.sendall(whole(200))
        return True

    ours = data_plane(plane, timeout_s=60)
    plane.then(answer(), late, answer(503))
    assert ours.post(BODY, KEY).kind == "delivered"

    def interrupt(_number: int, _frame: object) -> None:
        raise Interruption

    def kill_later() -> None:
        plane.wait_for(lambda: len(plane.requests) == 2)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=kill_later)
    thread.start()
    try:
        with pytest.raises(Interruption):
            ours.post(BODY, KEY)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)

    assert ours.post(BODY, KEY).status == 503
    assert plane.connections == 2


# TLS


@pytest.fixture(name="authority", scope="module")
def _authority() -> trustme.CA:
    return trustme.CA()


def test_tls_accepts_the_authority_of_ca_file(authority: trustme.CA, tmp_path: Path) -> None:
    """The connection is kept and can be aborted as any other."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        ours = data_plane(plane, ca_file=str(tmp_path / "ca.pem"))
        assert [ours.post(BODY, KEY).kind for _ in range(3)] == ["delivered"] * 3
        assert plane.connections == 1
        plane.hold()
        thread = threading.Thread(target=lambda: ours.post(BODY, KEY))
        thread.start()
        plane.wait_for(lambda: len(plane.requests) == 4)
        ours.abort()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(("names", "trusted"), [("127.0.0.1", False), ("other.example", True)])
def test_untrusted_tls_gets_no_event(authority: trustme.CA, tmp_path: Path, names: str, trusted: bool) -> None:
    """An unknown authority and another host's certificate end the attempt before the events are sent."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert(names))) as plane:
        outcome = post(plane, **({"ca_file": str(tmp_path / "ca.pem")} if trusted else {}))
        assert outcome.kind == "retry"
        assert outcome.reason.startswith("certificate verify failed")
        assert plane.requests == []


def test_tls_with_a_plain_server_is_retried(plane: FaultyPlane) -> None:
    """The attempt must end and not hang."""
    ours = towards(f"https://127.0.0.1:{plane.port}", connect_timeout_s=0.5)
    assert checked(ours.post(BODY, KEY)).kind == "retry"


def test_a_corrected_ca_file_is_read_again(authority: trustme.CA, tmp_path: Path) -> None:
    """The first file names another authority. The same data plane is reached once the file is right."""
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        ours = data_plane(plane, ca_file=str(path))
        assert checked(ours.post(BODY, KEY)).kind == "retry"
        authority.cert_pem.write_to_path(str(path))
        assert ours.post(BODY, KEY).kind == "delivered"


def _loop(path: Path) -> None:
    path.symlink_to(path)


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda _path: None,
    "a directory": lambda path: path.mkdir(),
    "that cannot be opened": _loop,
    "empty": lambda path: path.write_bytes(b""),
    "not PEM": lambda path: path.write_bytes(b"\0\xff" * 1000),
    "a broken certificate": lambda path: path.write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    ),
}


def unmake(path: Path) -> None:
    """Remove the file, link or directory."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_an_unusable_ca_file_blocks_the_attempt(authority: trustme.CA, tmp_path: Path, kind: str) -> None:
    """The reason names the setting. The first attempt after the correction delivers."""
    path = tmp_path / "ca.pem"
    BAD_FILES[kind](path)
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        ours = data_plane(plane, ca_file=str(path))
        outcome = checked(ours.post(BODY, KEY))
        assert outcome.kind == "blocked"
        assert outcome.reason.startswith("ca_file cannot be used: ")

        unmake(path)
        authority.cert_pem.write_to_path(str(path))
        assert ours.post(BODY, KEY).kind == "delivered"
        assert len(plane.requests) == 1


@pytest.mark.parametrize("kind", BAD_FILES)
def test_sync_mode_reports_an_unusable_ca_file(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The call ``track()`` returns False at once and raises nothing."""
    path = tmp_path / "ca.pem"
    BAD_FILES[kind](path)
    client = Client("KEY", "https://127.0.0.1:1", sync_mode=True, ca_file=str(path))
    assert client.track("u", "e") is False
    assert client.counts() == {"failed": 1}
    assert "ca_file cannot be used" in caplog.text
    client.shutdown()


def test_connect_timeout_s_bounds_a_slow_handshake() -> None:
    """The limit is for the whole handshake and not for each byte."""

    def serve(sock: socket.socket) -> None:
        sock.recv(1)
        drip_on(sock, b"\x16\x03\x03\x40\x00" + b"\x02" * 10_000)

    with RawServer(serve) as server:
        outcome = checked(towards(f"https://{server.address}", connect_timeout_s=0.5).post(BODY, KEY))
        assert (outcome.kind, outcome.reason) == ("retry", "no connection in time")
        assert server.ended.wait(30)


def test_timeout_s_bounds_slow_tls_records(authority: trustme.CA, tmp_path: Path) -> None:
    """A record is not readable before it is whole, so only the socket's own limit can end the wait."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = context_of(authority.issue_cert("127.0.0.1"))

    def serve(sock: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        request = b""
        while not request.endswith(b"}]}"):
            try:
                request += tls.read(65_536)
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65_536))
        tls.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n" + b"x" * 9000)
        drip_on(sock, outgoing.read())

    with RawServer(serve) as server:
        ours = towards(f"https://{server.address}", ca_file=str(tmp_path / "ca.pem"), timeout_s=0.5, gzip=False)
        outcome = checked(ours.post(BODY, KEY))
        assert (outcome.kind, outcome.reason) == ("retry", "no whole response in time")


TLS_ENDS = {
    "bytes that are none of TLS": b"HTTP/1.1 200 OK\r\n\r\n",
    "an alert in the clear": b"\x15\x03\x03\x00\x02\x02\x28",
    "a broken record": b"\x17\x03\x03\x00\x20" + b"x" * 32,
    "an end without a word": b"",
}


@pytest.mark.parametrize("kind", TLS_ENDS)
def test_tls_that_breaks_within_a_response_is_no_response(authority: trustme.CA, tmp_path: Path, kind: str) -> None:
    """Whatever follows half a response, the attempt is repeated over another connection."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = context_of(authority.issue_cert("127.0.0.1"))

    def serve(sock: socket.socket) -> None:
        below = sock.dup()
        with below, context.wrap_socket(sock, server_side=True) as tls:
            head_of(tls)
            tls.recv(65_536)
            tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok")
            below.sendall(TLS_ENDS[kind])
            below.shutdown(socket.SHUT_RDWR)

    with RawServer(serve) as server:
        ours = towards(f"https://{server.address}", ca_file=str(tmp_path / "ca.pem"))
        for _ in range(2):
            outcome = checked(ours.post(BODY, KEY))
            assert (outcome.kind, outcome.status) == ("retry", 0)
        assert server.connections == 2


@pytest.mark.parametrize("tls", [False, True])
def test_timeout_s_bounds_a_request_that_the_server_reads_slowly(
    authority: trustme.CA, tmp_path: Path, tls: bool
) -> None:
    """The limit is for the whole request and not for each piece of it."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = context_of(authority.issue_cert("127.0.0.1"))
    gone = threading.Event()

    def serve(sock: socket.socket) -> None:
        if tls:
            sock = context.wrap_socket(sock, server_side=True)
        with sock:
            while not gone.wait(0.02):
                sock.recv(4000)

    with RawServer(serve, receive_bytes=4096) as server:
        url = f"{'https' if tls else 'http'}://{server.address}"
        ours = towards(url, ca_file=str(tmp_path / "ca.pem"), timeout_s=0.5, gzip=False)
        outcome = checked(ours.post(b"x" * 32_000_000, KEY))
        gone.set()
        assert (outcome.kind, outcome.reason) == ("retry", "the server did not accept the request in time")


@pytest.mark.parametrize("tls", [False, True])
def test_a_server_that_pauses_gets_the_whole_request(authority: trustme.CA, tmp_path: Path, tls: bool) -> None:
    """A pause is no response. After the pause the request continues at the right byte."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = context_of(authority.issue_cert("127.0.0.1"))
    sent = os.urandom(8_000_000)
    seen = bytearray()

    def serve(sock: socket.socket) -> None:
        if tls:
            sock = context.wrap_socket(sock, server_side=True)
        with sock:
            head_of(sock)
            for pause_s in (0.6, 0.6, 0):
                threading.Event().wait(pause_s)
                while len(seen) < len(sent) / (4 if pause_s else 1):
                    seen.extend(sock.recv(1 << 20))
            sock.sendall(whole())

    with RawServer(serve, receive_bytes=4096) as server:
        url = f"{'https' if tls else 'http'}://{server.address}"
        ours = towards(url, ca_file=str(tmp_path / "ca.pem"), timeout_s=60, gzip=False)
        assert [ours.post(sent, KEY).kind] == ["delivered"]
    assert seen == sent


@pytest.mark.parametrize("status", [200, 413])
def test_an_early_response_within_tls_ends_the_request(authority: trustme.CA, tmp_path: Path, status: int) -> None:
    """The server neither reads more nor closes the connection. A session ticket before the response is no response."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = context_of(authority.issue_cert("127.0.0.1"))
    gone = threading.Event()

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            head_of(tls)
            tls.sendall(whole(status))
            gone.wait(30)

    with RawServer(serve) as server:
        ours = towards(f"https://{server.address}", ca_file=str(tmp_path / "ca.pem"), timeout_s=20, gzip=False)
        outcome = checked(ours.post(os.urandom(32_000_000), KEY))
        gone.set()
        assert (outcome.kind, outcome.status) == (("refused", 413) if status == 413 else ("retry", 0))
        assert "in time" not in outcome.reason


GREEN = """
import sys, warnings
warnings.simplefilter("ignore")
if sys.argv[1] == "gevent":
    from gevent import monkey
    monkey.patch_all()
else:
    import eventlet
    eventlet.monkey_patch()
import rudderpipe
client = rudderpipe.Client("KEY", sys.argv[2], sync_mode=True, ca_file=sys.argv[3])
print([client.track("u", "e", {"x": "y" * size}) for size in (1, 1000, 1_000_000)])
client.shutdown()
"""


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("green", ["gevent", "eventlet"])
def test_green_threads_keep_the_connection(authority: trustme.CA, tmp_path: Path, green: str, tls: bool) -> None:
    """The sockets of gevent and eventlet report in their own way that an operation would block."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = context_of(authority.issue_cert("127.0.0.1")) if tls else None
    with FaultyPlane(context=context) as plane:
        command = [sys.executable, "-c", GREEN, green, plane.url, str(tmp_path / "ca.pem")]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        assert done.stdout == b"[True, True, True]\n"
        assert (plane.connections, len(plane.accepted)) == (1, 3)
