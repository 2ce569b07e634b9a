"""The examples of docs/frameworks.md, run by the real servers, under requests and to the server's end."""

from __future__ import annotations

import json
import os
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

from native_tests import pages
from native_tests.pages import DOCS
from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

BLOCK = re.compile(r"```(?:python|ini)\n[#;] (\S+)\n(.*?)```", re.DOTALL)
QUEUE_LINE = re.compile(r"^(\s*)[#;] (?=.*(?:redis://|rudderpipe\.sender))", re.MULTILINE)
"""A comment that is a setting or a process for a queue."""
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
    """Stop a server as a service manager does.

    gunicorn kills a worker that was still booting at the signal only after 30 s.
    """
    process.send_signal(signal.SIGTERM)
    assert process.wait(45) in (0, -signal.SIGTERM)


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


class Together:
    """A reader who has copied all files of the page into one folder, and runs its commands there.

    With ``redis`` the reader has taken away the comment signs before the lines for a queue.
    """

    def __init__(self, processes: Processes, directory: Path, broker: str, redis: str = "") -> None:
        self._processes = processes
        self.directory = directory
        self.port = free_port()
        self._own = {
            "https://dataplane.example.com": processes.plane.url,
            "redis://localhost:6379/0": redis,
            "redis://localhost:6379/1": broker,
            "8000": str(self.port),
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RUDDERPIPE_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        runtime_dir = processes.explicit["runtime_dir"]
        self.environment = {**kept, "PATH": path, "RUDDERPIPE_RUNTIME_DIR": runtime_dir}
        self._page = pages.text_of("frameworks.md")
        self._arrived = 0
        for name, text in pages.files(self._page).items():
            changed = QUEUE_LINE.sub(r"\1", text) if redis else text
            (directory / name).write_text(self._of_the_reader(changed))

    def _of_the_reader(self, text: str) -> str:
        for shown, own in self._own.items():
            text = text.replace(shown, own)
        return text

    def start(self, server: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start the one command of the page that has this text."""
        steps = [step for session in pages.sessions(self._page) for step in session.steps]
        (command,) = [step.command for step in steps if server in step.command]
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {self._of_the_reader(command)}"],
            cwd=self.directory,
            env={**self.environment, **variables},
            start_new_session=True,
        )
        self._processes.started.append(process)
        return process

    def serves(self, server: str, *paths: str, **variables: str) -> None:
        """Run a server of the page under requests, and stop it; every event must arrive."""
        process = self.start(server, **variables)
        ask_many(self.port, *paths)
        stop(process)
        self.got(range(REQUESTS), server)

    def got(self, numbers: range, server: str) -> None:
        """Wait for the events since the last call, and check that each number arrived once."""
        wait_until(lambda: len(self._events()) >= self._arrived + len(numbers), describe=lambda: server)
        found = sorted(event["properties"]["number"] for event in self._events()[self._arrived :])
        assert found == list(numbers), server
        self._arrived += len(found)

    def _events(self) -> list[dict[str, Any]]:
        return [event for body in self._processes.plane.last_events() for event in json.loads(body)["batch"]]


def test_all_files_of_the_page_work_in_one_folder(
    processes: Processes, redis_server: RedisServer, directory: Path
) -> None:
    """Names, settings and pipes of the recipes do not get in each other's way, with the defaults of every setting.

    All servers have the same pipe. Each meets the flusher of the one before, which stays for ``linger_s``.
    """
    together = Together(processes, directory, broker=f"redis+socket://{redis_server.socket}")

    together.serves("flask_app:app", "items")
    together.serves("uwsgi ", "items", RUDDERPIPE_AUTOSTART="false")  # as the page says for pyuwsgi
    together.serves("django_app:application", "items")
    together.serves("uvicorn ", "items", "threads")
    worker = together.start("celery ")
    code = f"import celery_app\nfor n in range({REQUESTS}): celery_app.ship.delay(f'u{{n}}', n)"
    environment = {**together.environment, "BROKER": f"redis+socket://{redis_server.socket}"}
    subprocess.run([sys.executable, "-c", code], cwd=directory, env=environment, check=True, timeout=30)
    client = redis_server.client()
    wait_until(lambda: client.exists("celery", "unacked") == 0 and client.exists("_kombu.binding.celery"))
    stop(worker)
    together.got(range(REQUESTS), "celery")
    subprocess.run([sys.executable, "frozen_app.py"], cwd=directory, env=together.environment, check=True, timeout=30)
    wait_until(lambda: processes.plane.stats()["events"] == 5 * REQUESTS + 1)

    assert redis_server.client().keys("{rudder}*") == []  # direct mode


@pytest.mark.parametrize("server", ["uwsgi ", "flask_app:app"])
def test_the_lines_with_redis_give_a_recipe_a_queue(
    processes: Processes, redis_server: RedisServer, directory: Path, server: str
) -> None:
    """The reader takes away the comment signs before the lines with Redis, and changes nothing else."""
    together = Together(processes, directory, broker="", redis=f"unix://{redis_server.socket}")

    variables = {"RUDDERPIPE_AUTOSTART": "false"} if server == "uwsgi " else {}
    process = together.start(server, **variables)
    ask_many(together.port, "items")
    for name in ("pipe", "max_jobs_per_request", "linger_s", "flush_interval_ms"):
        del processes.explicit[name]
    processes.explicit |= {"redis": f"unix://{redis_server.socket}", "autostart": False}
    flushed = processes.client().flush(timeout_s=20, until="delivered")

    assert flushed, flushed
    together.got(range(REQUESTS), server)
    stop(process)
    assert redis_server.client().exists("{rudder}:rudderEventsQueue:id")
