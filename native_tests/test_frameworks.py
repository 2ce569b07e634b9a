"""The examples of the page of frameworks, run as they stand by the real servers, under requests and to their end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from native_tests.processes import Processes, free_port, wait_until
from native_tests.test_docs import DOCS
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

BLOCK = re.compile(r"```(?:python|ini)\n[#;] (\S+)\n(.*?)```", re.DOTALL)
REQUESTS = 45  # no multiple of flush_at: the last ones have to be asked for

# Views that answer no request before two are in them.
MEETING = """
import asyncio, threading
import rudderpipe
from django.http import HttpResponse
from django.urls import path

met, both = [], threading.Barrier(2)

def answer(request, number):
    rudderpipe.default_client().track(request.GET["user"], "Item Viewed", {"number": number})
    return HttpResponse("ok")

async def coroutine(request, number):
    met.append(number)
    while len(met) < 2:
        await asyncio.sleep(0.01)
    return answer(request, number)

def thread(request, number):
    both.wait(10)
    return answer(request, number)

urlpatterns = [path("coroutines/<int:number>", coroutine), path("threads/<int:number>", thread)]
"""


@pytest.fixture(name="port")
def _port() -> int:
    return free_port()


@pytest.fixture(name="page")
def _page(processes: Processes, directory: Path) -> Iterator[Processes]:
    """The page's files in a directory; what they do not say comes from variables."""
    for name, text in BLOCK.findall((DOCS / "frameworks.md").read_text()):
        (directory / name).write_text(text.replace("https://dataplane.example.com", processes.plane.url))
    for name in ("write_key", "data_plane_url"):  # the examples give them
        del processes.explicit[name]
    processes.explicit |= {"flush_interval_ms": 60_000, "linger_s": 60.0}  # what arrives at once was waited for
    yield processes
    processes.explicit |= {"write_key": "WRITE_KEY", "data_plane_url": processes.plane.url}


def serve(processes: Processes, directory: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a server in the directory of the files."""
    return processes.start(*command, cwd=directory)


def ask(port: int, number: int, path: str = "items") -> None:
    """One request, as from behind a proxy."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {
        "X-Forwarded-For": f"6.6.6.6, 10.0.0.{number}",
        "User-Agent": f"agent-{number}",
        "Accept-Language": "de-CH;q=0.9, en",
        "Referer": "https://shop.example.com/",
    }
    connection.request("GET", f"/{path}/{number}?user=u{number}", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.close()


def ask_many(port: int, *paths: str) -> None:
    """From four at once, each request with a number of its own."""
    wait_until(lambda: _listens(port))
    problems: list[BaseException] = []

    def some(first: int) -> None:
        try:
            for number in range(first, REQUESTS, 4):
                ask(port, number, paths[number % len(paths)])
        except BaseException as error:  # noqa: BLE001  # shown by the main thread
            problems.append(error)

    threads = [threading.Thread(target=some, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """As a service manager does."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)


def events(processes: Processes) -> dict[int, dict[str, Any]]:
    """What arrived, by number; each once."""
    found = [event for body in processes.plane.last_events() for event in json.loads(body)["batch"]]
    by_number = {event["properties"]["number"]: event for event in found}
    assert len(found) == len(by_number)
    return by_number


def assert_contexts(processes: Processes, path: str | None = "items") -> None:
    """Each event has the context of its own request."""
    found = events(processes)
    assert sorted(found) == list(range(REQUESTS))
    for number, event in found.items():
        assert event["userId"] == f"u{number}"
        context = event["context"]
        assert context["ip"] == f"10.0.0.{number}"
        assert context["userAgent"] == f"agent-{number}"
        assert context["locale"] == "de-CH"
        assert context["page"]["search"] == f"?user=u{number}"
        assert context["page"]["referrer"] == "https://shop.example.com/"
        if path:
            assert context["page"]["path"] == f"/{path}/{number}"


def test_django_under_gunicorn(page: Processes, directory: Path, port: int) -> None:
    """Django: two preloaded workers; when the master has ended, everything has been delivered."""
    page.plane.misbehaviour = Misbehaviour(status=503, times=1)
    settings = ("--env", "DJANGO_SETTINGS_MODULE=settings")
    server = serve(page, directory, "-m", "gunicorn", *settings, "-b", f"127.0.0.1:{port}", "django_app:application")
    ask_many(port, "items")

    stop(server)

    assert_contexts(page)
    event = events(page)[7]
    assert event["properties"] == {"number": 7, "kind": "book"}
    assert event["context"]["app"] == {"name": "shop"}


@pytest.mark.parametrize("view", ["coroutines", "threads"])
def test_django_under_uvicorn(page: Processes, directory: Path, port: int, view: str) -> None:
    """Two requests at once in one process, which wait for each other: each has its own context."""
    (directory / "django_app.py").write_text(MEETING)
    page.explicit["flush_interval_ms"] = 200  # nobody waits at this server's end
    app = ("--factory", "django.core.asgi:get_asgi_application", "--no-proxy-headers", "--log-level", "warning")
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), *app]
    environment = {**page.environment, "DJANGO_SETTINGS_MODULE": "settings"}
    server = subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True)
    page.started.append(server)
    wait_until(lambda: _listens(port))
    threads = [threading.Thread(target=ask, args=(port, number, view)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    stop(server)
    wait_until(lambda: len(events(page)) == 2)

    for number, event in events(page).items():
        assert (event["userId"], event["context"]["ip"]) == (f"u{number}", f"10.0.0.{number}")
        assert event["context"]["userAgent"] == f"agent-{number}"
        assert event["context"]["page"]["path"] == f"/{view}/{number}"


def test_flask_under_gunicorn(page: Processes, directory: Path, port: int) -> None:
    """The same of Flask, with a worker killed half way."""
    server = serve(page, directory, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "flask_app:app")
    ask_many(port, "items")
    import psutil

    psutil.Process(server.pid).children()[0].kill()

    stop(server)

    assert_contexts(page)


def test_flask_under_uwsgi(page: Processes, directory: Path, port: int) -> None:
    """The recipe: the flusher is attached, drains at the end, and nothing else was started."""
    page.explicit["autostart"] = False
    ini = (directory / "uwsgi.ini").read_text().replace("python -m", f"{sys.executable} -m")
    (directory / "uwsgi.ini").write_text(ini)
    page.explicit |= {"write_key": "WRITE_KEY", "data_plane_url": page.plane.url}  # for the attached flusher
    uwsgi = str(Path(sys.executable).with_name("uwsgi"))
    server = page.start_program(uwsgi, "--ini", "uwsgi.ini", "--http-socket", f"127.0.0.1:{port}", cwd=directory)
    ask_many(port, "items")
    page.flusher()  # it may have taken longer to start than all the requests

    stop(server)

    wait_until(lambda: len(events(page)) == REQUESTS)
    assert_contexts(page)


def test_fastapi_under_uvicorn(page: Processes, directory: Path, port: int) -> None:
    """Two workers, coroutines and threads at once; when they have ended, everything has been delivered."""
    page.plane.misbehaviour = Misbehaviour(delay_ms=700)
    server = serve(
        page,
        directory,
        "-m",
        "uvicorn",
        "--port",
        str(port),
        "--workers",
        "2",
        "--log-level",
        "warning",
        "fastapi_app:app",
    )
    ask_many(port, "items", "threads")

    stop(server)

    assert_contexts(page, None)
    assert {event["context"]["page"]["path"].split("/")[1] for event in events(page).values()} == {"items", "threads"}


def test_celery(page: Processes, directory: Path, redis_server: RedisServer) -> None:
    """A prefork worker whose processes are replaced after five tasks; a warm stop delivers all."""
    environment = {**page.environment, "BROKER": f"redis+socket://{redis_server.socket}"}
    command = ["-m", "celery", "-A", "celery_app", "worker", "-c", "2", "--max-tasks-per-child", "5"]
    command += ["-l", "warning", "--without-gossip", "--without-mingle"]
    worker = subprocess.Popen([sys.executable, *command], cwd=directory, env=environment, start_new_session=True)
    page.started.append(worker)
    code = f"import celery_app\nfor n in range({REQUESTS}): print(celery_app.ship.delay(f'u{{n}}', n).id)"
    sent = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, check=True, timeout=30
    )
    client = redis_server.client()
    wait_until(lambda: client.llen("celery") == 0 and client.hlen("unacked") == 0)

    stop(worker)

    found = events(page)
    assert sorted(found) == list(range(REQUESTS))
    tasks = {event["context"]["task"]["id"]: event["context"]["task"]["name"] for event in found.values()}
    assert sorted(tasks) == sorted(sent.stdout.decode().split())
    assert set(tasks.values()) == {"celery_app.ship"}
