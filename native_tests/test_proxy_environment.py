"""Proxies of the application's environment, which every process that posts must use."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trustme

from native_tests.faulty_plane import FaultyPlane
from native_tests.processes import Processes, wait_until
from native_tests.proxy import Proxy, context_of
from rudderpipe import Client
from rudderpipe.testing.redis_server import RedisServer


@pytest.fixture(name="proxy")
def _proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


def secret_url(proxy: Proxy) -> str:
    """Return the proxy's URL with user and password."""
    return f"http://user:proxy-password@127.0.0.1:{proxy.port}"


AUTHORIZATION = base64.b64encode(b"user:proxy-password").decode()


def test_sync_mode_reads_the_environment_when_the_client_is_made(monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
    """A later change of the environment changes nothing. An empty ``proxy_url`` means no proxy."""
    with FaultyPlane() as plane:
        monkeypatch.setenv("HTTP_PROXY", secret_url(proxy))
        client = Client("KEY", plane.url, sync_mode=True)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        assert client.track("u", "e")
        client.shutdown()
        assert proxy.heads[0].startswith(f"POST {plane.url}/v1/batch ")
        assert AUTHORIZATION in proxy.heads[0]

        straight = Client("KEY", plane.url, sync_mode=True, proxy_url="")
        assert straight.track("u", "e")
        straight.shutdown()
        assert len(proxy.heads) == 1


@pytest.mark.parametrize("queue", [False, True])
def test_autostarted_processes_use_the_applications_proxy(
    monkeypatch: pytest.MonkeyPatch,
    processes: Processes,
    redis_server: RedisServer,
    proxy: Proxy,
    tmp_path: Path,
    queue: bool,
) -> None:
    """The password of the proxy is in no command line and in no log."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with FaultyPlane(context=context_of(authority.issue_cert("127.0.0.1"))) as plane:
        processes.explicit |= {"data_plane_url": plane.url, "ca_file": str(tmp_path / "ca.pem"), "linger_s": 30}
        if queue:
            processes.explicit["redis"] = redis_server.url
        monkeypatch.setenv("HTTPS_PROXY", secret_url(proxy))
        monkeypatch.setenv("NO_PROXY", "other.example")
        assert processes.client().track("u", "e")
        plane.wait_for(lambda: len(plane.accepted) == 1)

        assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{plane.port} ")
        assert AUTHORIZATION in proxy.heads[0]
        found = [processes.flusher(), *([processes.sender()] if queue else [])]
        assert not any("proxy-password" in " ".join(process.cmdline()) for process in found)
        assert "proxy-password" not in processes.log()


def test_an_operators_sender_uses_the_proxy_of_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, processes: Processes, redis_server: RedisServer, proxy: Proxy
) -> None:
    """The application's environment has no proxy, and the sender's has one."""
    with FaultyPlane() as plane:
        processes.explicit |= {"data_plane_url": plane.url, "redis": redis_server.url, "autostart": "flusher"}
        assert processes.client().track("u", "e")
        monkeypatch.setenv("http_proxy", secret_url(proxy))
        sender = processes.start("-m", "rudderpipe.sender")
        plane.wait_for(lambda: len(plane.accepted) == 1)
        assert AUTHORIZATION in proxy.heads[0]
        psutil.Process(sender.pid).terminate()
        wait_until(lambda: sender.poll() is not None)
