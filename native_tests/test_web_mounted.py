"""The examples of docs/web.md: the page mounted in Django and in Flask behind their login, below a path."""

from __future__ import annotations

import contextlib
import http.cookies
import json
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from native_tests import pages
from native_tests.processes import Processes, free_port, wait_until
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import FailedJobs
from rudderpipe.queue.job import build
from rudderpipe.queue.queue import Queue
from rudderpipe.testing.redis_server import RedisServer

OURS = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
DJANGO = """
from pathlib import Path
SECRET_KEY = "not in production"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.middleware.common.CommonMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).with_name("db.sqlite3")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "/enter"
"""
DJANGO_LOGIN = """

from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path

def enter(request, name):
    login(request, User.objects.get(username=name))
    return HttpResponse("in")

urlpatterns += [path("enter/<name>", enter)]
"""
DJANGO_USERS = """
import django, os
os.environ["DJANGO_SETTINGS_MODULE"] = "site_settings"
django.setup()
from django.core.management import call_command
from django.contrib.auth.models import User
call_command("migrate", verbosity=0)
User.objects.create_user("guest")
User.objects.create_user("colleague", is_staff=True)
User.objects.create_superuser("operator")
"""
FLASK_LOGIN = """

@app.get("/enter/<name>")
def enter(name):
    session["user"], session["role"] = name, name
    return "in"
"""


class Site:
    """A server with the page below ``/pipe``."""

    def __init__(self, processes: Processes, directory: Path, application: str) -> None:
        self.port = free_port()
        self.log = directory / "site.log"
        with self.log.open("wb") as log:
            processes.start(
                *("-m", "gunicorn", "--workers", "2", "--preload", "--bind", f"127.0.0.1:{self.port}"),
                *("--config", "logged.py", application),
                cwd=directory,
                stderr=log,
            )
        wait_until(self._listens)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send one request."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, None if body is None else json.dumps(body), given)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    def log_in(self, name: str) -> dict[str, str]:
        """Return the headers of a browser in which this user has logged in."""
        status, headers, body = self.ask("GET", f"/enter/{name}")
        assert (status, body) == (200, b"in"), self.log.read_text()
        cookies = http.cookies.SimpleCookie(headers["set-cookie"])
        return {"Cookie": "; ".join(f"{each}={morsel.value}" for each, morsel in cookies.items())}


@pytest.fixture(name="serve", params=["django", "flask"])
def _serve(
    request: pytest.FixtureRequest, processes: Processes, redis_server: RedisServer, directory: Path
) -> Callable[[], Site]:
    """Return a function that starts the server of one example."""
    processes.explicit |= {"redis": redis_server.url, "pipe": "mounted"}
    files = {
        name: text.replace("https://dataplane.example.com", processes.plane.url)
        for name, text in pages.files(pages.text_of("web.md")).items()
    }
    (directory / "logged.py").write_text("import logging; logging.basicConfig(level=logging.INFO)")

    def serve() -> Site:
        if request.param == "flask":
            (directory / "flask_page.py").write_text(files["flask_page.py"] + FLASK_LOGIN)
            return Site(processes, directory, "flask_page:app")
        (directory / "urls.py").write_text(files["urls.py"] + DJANGO_LOGIN)
        (directory / "site_settings.py").write_text(DJANGO)
        (directory / "users.py").write_text(DJANGO_USERS)
        made = processes.start("users.py", cwd=directory)
        assert made.wait(60) == 0
        return Site(processes, directory, "django.core.wsgi:get_wsgi_application()")

    return serve


@pytest.fixture(name="site")
def _site(serve: Callable[[], Site], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SECRET_KEY", "not in production")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "site_settings")
    return serve()


@pytest.fixture(name="queue")
def _queue(site: Site, processes: Processes) -> Iterator[Queue]:
    """Yield the queue, with two failed jobs."""
    assert site.port
    queue = Queue(processes.settings, Clock())
    queue.add(1, [(build(b'{"type":"track"}', "WRITE_KEY", "t", 1), 1)] * 2, {}, [])
    for taken in queue.take(10, 1_000_000):
        queue.fail(taken, "no")
    yield queue
    queue.close()


def test_the_login_of_the_application_decides(site: Site, queue: Queue) -> None:
    """A stranger and a guest see nothing, a colleague only looks, and an operator acts."""
    guest, colleague, operator = map(site.log_in, ("guest", "colleague", "operator"))

    assert site.ask("GET", "/pipe/api/flow")[0] in (302, 403)
    assert site.ask("GET", "/pipe/api/flow", **guest)[0] == 403
    status, headers, body = site.ask("GET", "/pipe/api/flow", **colleague)
    assert (status, json.loads(body)["access"], json.loads(body)["can_log_in"]) == (200, "read", False)
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    wanted = {"ids": ["1"]}
    assert site.ask("POST", "/pipe/api/failed/delete", wanted, **colleague, **OURS)[0] == 403
    assert (
        site.ask("POST", "/pipe/api/failed/delete", wanted, **operator, **(OURS | {"Sec-Fetch-Site": "none"}))[0] == 403
    )
    assert len(list(FailedJobs(queue))) == 2

    status, _, body = site.ask("POST", "/pipe/api/failed/delete", wanted, **operator, **OURS)

    assert (status, json.loads(body)["changed"]) == (200, 1)
    assert [job.id for job in FailedJobs(queue)] == ["2"]
    assert "failed jobs deleted by=operator from=127.0.0.1 jobs=1 left_alone=0" in site.log.read_text()


def test_the_page_is_below_its_path(site: Site, queue: Queue) -> None:
    """Its addresses are relative, so they need the slash at its end. Each worker serves all of it."""
    operator = site.log_in("operator")

    status, headers, _ = site.ask("GET", "/pipe", **operator)

    assert (status, headers["location"]) == (308, "./pipe/")
    for _ in range(6):
        status, headers, body = site.ask("GET", "/pipe/", **operator)
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8"), body
    assert site.ask("GET", "/pipe/static/page.css", **operator)[0] == 200
    assert json.loads(site.ask("GET", "/pipe/api/failed/2", **operator)[2])["reason"] == "no"
    assert site.ask("GET", "/pipe/nothing", **operator)[0] == 404
    assert site.ask("HEAD", "/pipe/api/flow", **operator)[2] == b""
    assert queue.counts().failed == 2
