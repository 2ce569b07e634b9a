"""The examples of docs/frameworks.md, run by the real servers, under requests and to the server's end."""

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

from native_tests.pages import DOCS
from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

BLOCK = re.compile(r"```(?:python|ini)\n[#;] (\S+)\n(.*?)```", re.DOTALL)
REQUESTS = 45  # no multiple of flush_at, so the last batch leaves only by a flush

# Views that send no response before two requests are in them.
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
    """Yield a pipe with the files of the page in its directory.

    Environment variables give the settings that the files do not give.
    """
    for name, text in BLOCK.findall((DOCS / "frameworks.md").read_text()):
        (directory / name).write_text(text.replace("https://dataplane.example.com", processes.plane.url))
    for name in ("write_key", "data_plane_url"):  # the examples give these settings
        del processes.explicit[name]
    processes.explicit |= {"flush_interval_ms": 60_000, "linger_s": 60.0}  # so events arrive early only by a flush
    yield processes
    processes.explicit |= {"write_key": "WRITE_KEY", "data_plane_url": processes.plane.url}


def serve(processes: Processes, directory: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a server in the directory of the files."""
    return processes.start(*command, cwd=directory)


def ask(port: int, number: int, path: str = "items") -> None:
    """Send one request, as from behind a proxy."""
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
    """Send all requests from four clients at once, each request with a number of its own."""
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
    """Stop a server as a service manager does."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)


def events(processes: Processes) -> dict[int, dict[str, Any]]:
    """Return the events that arrived, by number, and check that each arrived once."""
    found = [event for body in processes.plane.last_events() for event in json.loads(body)["batch"]]
    by_number = {event["properties"]["number"]: event for event in found}
    assert len(found) == len(by_number)
    return by_number


def assert_contexts(processes: Processes, path: str | None = "items") -> None:
    """Check that each event has the context of its own request."""
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


def test_gunicorn_delivers_all_events_of_django_at_its_end(page: Processes, directory: Path, port: int) -> None:
    """Two preloaded workers serve, and everything is delivered when the master has ended."""
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
def test_each_request_of_django_under_uvicorn_has_its_own_context(
    page: Processes, directory: Path, port: int, view: str
) -> None:
    """Two requests are in one process at once, and each waits for the other."""
    (directory / "django_app.py").write_text(MEETING)
    page.explicit["flush_interval_ms"] = 200  # this server does not flush at its end
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


def test_gunicorn_delivers_all_events_of_flask_after_a_killed_worker(
    page: Processes, directory: Path, port: int
) -> None:
    """The events of the killed worker are in the ring and need the worker no more."""
    server = serve(page, directory, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "flask_app:app")
    ask_many(port, "items")
    import psutil

    psutil.Process(server.pid).children()[0].kill()

    stop(server)

    assert_contexts(page)


def test_uwsgi_runs_the_flusher_of_the_example(page: Processes, directory: Path, port: int) -> None:
    """uWSGI starts and ends the flusher itself, once, and it drains at the end. Nothing else starts one.

    The flusher has the settings of the example alone, and its pipe is that of the application.
    """
    del page.explicit["pipe"]
    page.explicit["autostart"] = False  # in the environment, because pyuwsgi's Python does not see the file's variables
    ini = (directory / "uwsgi.ini").read_text().replace("python -m", f"{sys.executable} -m")
    (directory / "uwsgi.ini").write_text(ini)
    uwsgi = str(Path(sys.executable).with_name("uwsgi"))
    server = page.start_program(uwsgi, "--ini", "uwsgi.ini", "--http-socket", f"127.0.0.1:{port}", cwd=directory)
    page.explicit |= {"write_key": "WRITE_KEY", "data_plane_url": page.plane.url}  # for this test's own view
    ask_many(port, "items")
    flusher = page.flusher()  # its start may take longer than all the requests
    assert server.pid in [parent.pid for parent in flusher.parents()]
    assert page.status().rings[0].flusher_starts == 1

    stop(server)

    wait_until(lambda: len(events(page)) == REQUESTS)
    assert_contexts(page)


def test_uvicorn_delivers_all_events_of_fastapi_at_its_end(page: Processes, directory: Path, port: int) -> None:
    """Two workers run coroutines and threads at once. Everything is delivered when they have ended."""
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


def test_celery_delivers_all_events_of_its_tasks_at_its_end(
    page: Processes, directory: Path, redis_server: RedisServer
) -> None:
    """The worker replaces its processes after five tasks each, and a warm shutdown delivers everything."""
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
