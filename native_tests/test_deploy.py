"""The recipes of docs/deploy under requests, through a deploy of every process: no accepted event is lost."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_tests.deployed import (
    BIN,
    RECIPES,
    Deployment,
    Orders,
    arrived,
    manifests,
    responds,
    stop,
    takes_signals,
    variables,
)
from native_tests.manager import Manager
from native_tests.pages import REPOSITORY
from native_tests.processes import Processes, wait_until
from rudderpipe.testing.redis_server import RedisServer

TOKEN = "0123456789abcdef" * 4
PAUSE_MS = 3_000
"""Longer than gunicorn takes to stop its workers."""


@pytest.fixture(name="shop")
def _shop(processes: Processes, directory: Path, redis_server: RedisServer) -> Iterator[Deployment]:
    """Yield the folders of the recipes, with nothing started."""
    deployment = Deployment(processes, directory, redis_server)
    yield deployment
    deployment.end()


class Supervisor:
    """A supervisord with the recipe, and its supervisorctl."""

    def __init__(self, shop: Deployment) -> None:
        self._shop = shop
        (shop.directory / "etc" / "shop.toml").write_text(shop.text_of("supervisor/shop.toml"))
        own = f"""
[supervisord]
nodaemon=true
logfile={shop.directory}/supervisord.log
pidfile={shop.directory}/supervisord.pid
[unix_http_server]
file={shop.directory}/ctl
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{shop.directory}/ctl
"""
        self._file = shop.directory / "supervisord.conf"
        self._file.write_text(own + shop.text_of("supervisor/shop.conf"))
        self.process = shop.start(
            str(BIN / "supervisord"), "-c", str(self._file), environment=shop.environment(), stdout=subprocess.DEVNULL
        )

    def control(self, *words: str) -> str:
        """Run supervisorctl and return what it printed."""
        command = [str(BIN / "supervisorctl"), "-c", str(self._file), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout

    def log(self) -> str:
        """Return what supervisord logged."""
        return (self._shop.directory / "supervisord.log").read_text()


def test_supervisor(shop: Deployment) -> None:
    """Each process is restarted in the order of an upgrade; the stop is application, flusher, sender."""
    supervisor = Supervisor(shop)
    wait_until(lambda: responds(shop.port, "/healthz"), describe=supervisor.log)
    with Orders(shop.port).running() as orders:
        for name in ("shop-flusher", "shop-sender", "shop"):
            orders.more()
            assert f"{name}: started" in supervisor.control("restart", name)
        orders.more()
        assert shop.processes.status().ring is not None
        supervisor.control("shutdown")
        assert supervisor.process.wait(60) == 0

    ended = re.findall(r"stopped: ([\w-]+) \(exit status 0\)", supervisor.log())
    assert ended == ["shop-flusher", "shop-sender", "shop", "shop", "shop-flusher", "shop-sender"]
    assert shop.ring_events() == 0
    shop.deliver_the_rest(orders)


class Unit:
    """A unit of the recipe, started as systemd does: specifiers, variables, credentials and the notify socket."""

    def __init__(self, shop: Deployment, name: str) -> None:
        self._shop = shop
        self.name = name
        template = re.sub(r"@.*(?=\.)", "@", name)
        text = (RECIPES / "systemd" / template).read_text().replace("%i", "shop")
        self.lines = re.findall(r"^(\w+)=(.*)$", shop.own(text), re.MULTILINE)
        folder = shop.directory / name
        folder.mkdir()
        self.manager = Manager(folder)
        for credential in self.all("LoadCredential"):
            key, _, path = credential.partition(":")
            (folder / key).write_text(Path(path).read_text())
            (folder / key).chmod(0o400)
        (file,) = self.all("EnvironmentFile")
        self.environment = {
            **shop.environment(**variables(Path(file).read_text())),
            "CREDENTIALS_DIRECTORY": str(folder),
            "NOTIFY_SOCKET": self.manager.path,
        }
        if watchdog := self.all("WatchdogSec"):
            self.environment["WATCHDOG_USEC"] = str(int(watchdog[0]) * 1_000_000)

    def all(self, name: str) -> list[str]:
        """Return the values of a line of the unit."""
        return [value for each, value in self.lines if each == name]

    def command(self, name: str) -> list[str]:
        """Return a command line, with its variables."""
        known = {**self.environment, "MAINPID": str(self.process.pid) if name == "ExecReload" else ""}
        return [
            os.path.expandvars(word) if "$" not in word else _expand(word, known)
            for word in shlex.split(self.all(name)[0])
        ]

    def start(self) -> None:
        """Start the service, and wait until it notifies that it is ready."""
        self.process = self._shop.start(*self.command("ExecStart"), environment=self.environment)
        self.manager.receives("READY=1")

    def stop(self) -> None:
        """Stop the service within its time."""
        stop(self.process, float(self.all("TimeoutStopSec")[0]))

    def restart(self) -> None:
        """Stop the service and start it again."""
        self.stop()
        self.start()


def _expand(word: str, known: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: known[found[1]], word)


def test_systemd(shop: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
    """The lines of the units, with credentials in a directory of each unit, through an upgrade and a reload.

    No process warns of anything.
    """
    (shop.directory / "etc" / "shop.env").write_text(shop.text_of("systemd/shop.env"))
    (shop.directory / "etc" / "shop.web").write_text(TOKEN)
    flusher, sender, application = units = [
        Unit(shop, name)
        for name in ("rudderpipe-flusher@shop.service", "rudderpipe-sender@shop.service", "shop.service")
    ]
    for unit in units:
        unit.start()
    for unit in (flusher, sender):
        unit.manager.receives("WATCHDOG=1")
    assert responds(shop.flusher_port, "/readyz")
    assert responds(shop.sender_port, "/readyz")
    page = Unit(shop, "rudderpipe-web@shop.service")
    web = shop.start(*page.command("ExecStart"), environment=page.environment, stdout=subprocess.DEVNULL)
    page.manager.close()
    wait_until(lambda: responds(shop.web_port, "/api/flow", Authorization=f"Bearer {TOKEN}"))
    assert not responds(shop.web_port, "/api/failed.ndjson")
    with Orders(shop.port).running() as orders:
        for unit in (flusher, sender, application):
            orders.more()
            unit.restart()
        orders.more()
        subprocess.run(application.command("ExecReload"), check=True)
        orders.more()
        assert shop.processes.status().ring is not None
        application.stop()
    flusher.stop()

    assert shop.ring_events() == 0
    sender.stop()
    stop(web)
    for unit in units:
        unit.manager.close()
    said = capfd.readouterr().err
    assert "flusher started" in said
    assert [line for line in said.splitlines() if re.search("WARN|ERROR|other settings", line)] == []
    shop.deliver_the_rest(orders)


def settings_of(name: str) -> dict[str, str]:
    """Return the variables of the ConfigMap in a file for Kubernetes."""
    (found,) = [each["data"] for each in manifests(name) if each["kind"] == "ConfigMap"]
    return dict(found)


def containers(name: str) -> dict[str, dict[str, Any]]:
    """Return the containers of a file for Kubernetes by name."""
    pods = [each["spec"]["template"]["spec"] for each in manifests(name) if each["kind"] == "Deployment"]
    return {each["name"]: each for pod in pods for each in (*pod.get("initContainers", ()), *pod["containers"])}


def test_kubernetes(shop: Deployment, redis_server: RedisServer) -> None:
    """The containers' commands and probes. The sidecar drains what a killed application left, before the pod ends.

    Of two senders one stands by, ready, and takes over. The senders have no write key.
    """
    redis_server.text_client().config_set("requirepass", "pa55word")
    (shop.directory / "etc" / "redis_password").write_text("pa55word")
    (shop.directory / "etc" / "redis_password").chmod(0o400)
    variables = settings_of("shop.yaml")
    pod = containers("shop.yaml")
    (sending,) = containers("sender.yaml").values()

    def start(container: dict[str, Any], **more: str) -> subprocess.Popen[bytes]:
        return shop.start(*map(shop.own, container["command"]), environment=shop.environment(**variables | more))

    flusher = start(pod["flusher"])
    wait_until(lambda: responds(shop.flusher_port, pod["flusher"]["startupProbe"]["httpGet"]["path"]))
    application = start(pod["shop"])
    wait_until(lambda: responds(shop.port, pod["shop"]["readinessProbe"]["httpGet"]["path"]))
    keyless = {"RUDDERPIPE_WRITE_KEY_FILE": str(shop.directory / "none")}
    first = start(sending, **keyless)
    wait_until(lambda: responds(shop.sender_port, sending["readinessProbe"]["httpGet"]["path"]))
    first_port = shop.sender_port
    shop.move_sender()
    second = start(sending, **keyless)
    wait_until(lambda: responds(shop.sender_port, sending["readinessProbe"]["httpGet"]["path"]))
    assert all(responds(port, "/healthz") for port in (first_port, shop.sender_port, shop.flusher_port))
    with Orders(shop.port).running() as orders:
        orders.more()
        stop(first)
        orders.more()
        assert shop.processes.status().ring is not None
        os.killpg(application.pid, signal.SIGKILL)  # out of memory: its own hook for the end does not run
        application.wait()
        stop(flusher)

    assert shop.ring_events() == 0
    orders.assert_arrived(shop.processes)
    stop(second)


@pytest.fixture(name="variables")
def _variables(shop: Deployment) -> dict[str, str]:
    """Return the variables of a container whose application starts the flusher."""
    environment = shop.environment(**settings_of("shop.yaml"))
    del environment["RUDDERPIPE_REDIS_PASSWORD_FILE"]
    shop.processes.explicit["autostart"] = True
    return environment | {"RUDDERPIPE_AUTOSTART": "flusher"}


def test_gunicorn_in_a_container(shop: Deployment, redis_server: RedisServer, variables: dict[str, str]) -> None:
    """The server ends only when the ring is empty, although Redis takes nothing for a while: the flusher ends with it.

    Before that it reloads under requests.
    """
    (command,) = re.findall(r"^CMD (.*)$", (RECIPES / "app" / "Dockerfile").read_text(), re.MULTILINE)
    server = shop.start(*json.loads(command), environment=variables)
    wait_until(lambda: responds(shop.port, "/healthz"))
    with Orders(shop.port).running() as orders:
        orders.more()
        before = shop.workers(server)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: len(now := shop.workers(server)) == len(before) and not now & before)
        orders.more()
        redis_server.text_client().execute_command("CLIENT", "PAUSE", PAUSE_MS, "WRITE")
        server.send_signal(signal.SIGTERM)
        assert server.wait(40) == 0
        for process in shop.processes.own_processes():
            process.kill()

    assert shop.ring_events() == 0
    shop.deliver_the_rest(orders)


def test_a_procfile(shop: Deployment, variables: dict[str, str]) -> None:
    """The lines of both processes, under a program that reads such files."""
    del variables["RUDDERPIPE_AUTOSTART"]
    honcho = str(BIN / "honcho")
    manager = shop.start(honcho, "start", "--no-colour", environment=variables, stdout=subprocess.DEVNULL)
    wait_until(lambda: responds(shop.port, "/healthz"))
    with Orders(shop.port).running() as orders:
        orders.more(300)
        wait_until(lambda: len(arrived(shop.processes)) > 100)
        manager.send_signal(signal.SIGTERM)
        manager.wait(40)

    assert shop.ring_events() == 0
    shop.deliver_the_rest(orders)


@pytest.mark.parametrize("form", ["attached", "standalone"])
def test_uwsgi(shop: Deployment, form: str) -> None:
    """A reload and a stop under requests. What the stop leaves in the ring, the next start delivers.

    uWSGI stops its daemons before its workers, so accepted events may be in the ring when all have ended.
    """
    (shop.directory / "etc" / "shop.toml").write_text(shop.text_of("supervisor/shop.toml"))
    (shop.directory / "uwsgi.ini").write_text(shop.text_of(f"uwsgi/{form}.ini"))
    # pyuwsgi starts Python before it reads the file's variables, and reloads into a Python without the environment.
    paths = os.pathsep.join((sysconfig.get_path("purelib"), str(REPOSITORY)))
    environment = shop.environment(RUDDERPIPE_CONFIG="/etc/rudderpipe/shop.toml", PYTHONPATH=paths)
    environment["RUDDERPIPE_FLUSH_INTERVAL_MS"] = "200"  # what an earlier end left must leave while the server runs

    def start(*command: str) -> subprocess.Popen[bytes]:
        return shop.start(*command, environment=environment, stderr=subprocess.DEVNULL)

    def serve() -> subprocess.Popen[bytes]:
        server = start(str(BIN / "uwsgi"), "--ini", "uwsgi.ini")
        wait_until(lambda: responds(shop.port, "/healthz") and takes_signals(server))
        return server

    names = ("flusher", "sender") if form == "standalone" else ()
    others = [start(sys.executable, "-m", f"rudderpipe.{name}") for name in names]
    server = serve()
    with Orders(shop.port).running() as orders:
        orders.more()
        before = shop.workers(server)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: len(now := shop.workers(server)) == len(before) and not now & before)
        wait_until(lambda: takes_signals(server))
        orders.more()
        server.send_signal(signal.SIGTERM)
        assert server.wait(40) == 0
    server = serve()

    orders.assert_arrived(shop.processes)
    for each in (server, *others):
        stop(each)
