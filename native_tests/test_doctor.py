"""``rudderpipe doctor`` with a real Redis, data plane and processes: each check fails once, and names the right fix.

``tests/test_doctor.py`` has the checks of host, ring and processes.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from native_tests.processes import Processes
from native_tests.redis_forms import Wire
from rudderpipe.observe import findings, snapshot
from rudderpipe.observe.doctor import data_plane, host, proc, queue_jobs, redis_server, run, send_test
from rudderpipe.observe.doctor.check import CHECKS, Finding
from rudderpipe.observe.doctor.examination import Examination
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.ring import location, memory
from rudderpipe.settings import Settings
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour
from rudderpipe.testing.redis_server import RedisServer
from tests.fakes import FakeClock
from tests.queue_contract import add

KEY = "s3cr3t-key"


@pytest.fixture(name="settings")
def _settings(redis_server: RedisServer, plane: DataPlaneServer, directory: Path) -> Iterator[Settings]:
    (directory / "run").mkdir(mode=0o700)
    settings = Settings(
        write_key=KEY,
        data_plane_url=plane.url,
        redis=redis_server.url,
        pipe=f"examined-{os.getpid()}",
        runtime_dir=str(directory / "run"),
        spool_dir=str(directory / "state"),
    )
    yield settings
    for each in (settings, msgspec.structs.replace(settings, redis=None)):  # each has a ring of its own
        memory.remove(location.own(each).segment)


@pytest.fixture(name="queue")
def _queue(settings: Settings) -> Iterator[Queue]:
    queue = Queue(settings, Clock())
    yield queue
    queue.close()


@pytest.fixture(name="client")
def _client(redis_server: RedisServer) -> Any:
    return redis_server.text_client()


def look(number: int, settings: Settings, pipe: Examination | None = None) -> Finding:
    """Return the finding of one check."""
    return run.finding(CHECKS[number], pipe or Examination(settings, environment={}))


def shut_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_redis_that_is_away(settings: Settings, redis_server: RedisServer) -> None:
    """Check 16 fails, and the other checks of Redis are skipped and refer to it."""
    assert look(16, settings).state == "ok"
    redis_server.kill()

    findings = {each.number: each for each in run.run(Examination(settings, environment={}), ["redis"])}

    assert (findings[16].state, findings[16].fix.startswith("start Redis")) == ("fail", True)
    others = {each.text for number, each in findings.items() if number != 16}
    assert others == {"Redis cannot be used, see check 16"}


def test_a_wrong_password_of_redis(settings: Settings, client: Any) -> None:
    """The password that was given is not shown."""
    client.config_set("requirepass", "another")
    wrong = msgspec.structs.replace(settings, redis=f"{settings.redis}".replace("unix://", "unix://:pa55word@"))

    found = look(16, wrong)

    assert (found.state, found.fix) == ("fail", "correct user and password in the setting redis")
    assert "pa55word" not in found.text


def test_a_slow_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of flusher and sender pays the time of a round trip."""
    monkeypatch.setattr(redis_server, "SLOW_S", 0.0)

    found = look(16, settings)

    assert (found.state, found.fix.startswith("use a Redis in the same network")) == ("warn", True)


def test_a_certificate_that_ends_soon(settings: Settings, redis_server: RedisServer, directory: Path) -> None:
    """A certificate of 5 days."""
    key, certificate = directory / "key.pem", directory / "cert.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 5 -subj /CN=localhost"
    subprocess.run([*make.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    wire = Wire(redis_server, context)
    url = f"rediss://localhost:{wire.port}/?ssl_ca_file={certificate}"

    found = look(16, msgspec.structs.replace(settings, redis=url))

    assert (found.state, found.fix) == ("warn", "renew it")
    assert "ends in 5 days" in found.text


def test_a_replica(settings: Settings, client: Any) -> None:
    """It takes no writes."""
    assert look(17, settings).state == "ok"
    client.replicaof("127.0.0.1", shut_port())

    found = look(17, settings)

    assert (found.state, found.fix.startswith("point the setting redis at the master")) == ("fail", True)


def test_a_clock_that_is_wrong(settings: Settings) -> None:
    """Ages and delays are wrong by the difference."""
    clock = FakeClock()

    found = look(17, settings, Examination(settings, clock=clock, environment={}))

    assert (found.state, found.fix) == ("warn", "synchronize both by NTP")


def test_a_redis_that_is_too_old(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts need commands of 6.2."""
    monkeypatch.setattr(redis_server, "OLDEST", (99, 0))

    assert look(17, settings).fix == "use Redis 6.2 or later, or Valkey"


def test_a_redis_that_evicts(settings: Settings, client: Any) -> None:
    """Queued events would disappear."""
    assert look(18, settings).state == "ok"
    client.config_set("maxmemory-policy", "allkeys-lru")

    found = look(18, settings)

    assert (found.state, found.fix.partition(",")[0]) == ("fail", "CONFIG SET maxmemory-policy noeviction")


def test_a_redis_that_keeps_nothing(settings: Settings, client: Any) -> None:
    """Neither an append-only file nor snapshots."""
    assert look(19, settings).state == "ok"
    client.config_set("appendonly", "no")

    found = look(19, settings)

    assert (found.state, found.fix.startswith("CONFIG SET appendonly yes")) == ("warn", True)
    assert "keeps nothing" in found.text
    client.config_set("save", "3600 1")
    assert "only from time to time" in look(19, settings).text


def test_too_few_replicas(settings: Settings) -> None:
    """Without the setting none is needed."""
    wanted = msgspec.structs.replace(settings, redis_replicas=1)

    found = look(19, wanted)

    assert (found.state, "redis_replicas is 1, and 0 replicas are connected" in found.text) == ("fail", True)
    assert look(19, settings).state == "ok"


def test_no_room_for_an_outage(settings: Settings, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either because nothing is free, or because of the rate."""
    assert look(20, settings).state == "ok"
    add(queue, 200)
    small = msgspec.structs.replace(settings, max_queue_bytes=1 << 20)
    monkeypatch.setattr(Examination, "rate_per_s", 1_000_000.0)

    found = look(20, small)

    assert (found.state, found.fix.startswith("raise max_queue_bytes, or flush_at")) == ("warn", True)
    for start in range(200, 10_200, 1000):
        add(queue, 1000, start=start)
    assert look(20, small).text == "no memory is left for jobs, by max_queue_bytes"


def test_rights_that_lack(settings: Settings, server: RedisServer) -> None:
    """The commands that a user may not run are named, without running them."""
    client, there = server.text_client(), msgspec.structs.replace(settings, redis=server.url)
    if int(client.info("server")["redis_version"].split(".")[0]) < 7:
        assert look(21, there).text == "ACL DRYRUN needs Redis 7.0"
        return
    assert look(21, there).state == "ok", look(21, there)
    client.execute_command("ACL", "SETUSER", "default", "-linsert", "-publish")

    found = look(21, there)

    client.execute_command("ACL", "SETUSER", "default", "+@all", "-wait")
    assert (found.state, found.fix) == ("fail", "give the user the ACL line of docs/settings.md")
    assert "LINSERT, PUBLISH" in found.text
    assert look(21, there).state == "ok"
    assert "may not run WAIT" in look(21, msgspec.structs.replace(there, redis_replicas=1)).text
    client.execute_command("ACL", "SETUSER", "default", "+@all")


def test_a_user_of_redis_who_may_not_ask(settings: Settings, client: Any) -> None:
    """The user of our documentation may not run INFO or ACL: those checks are skipped, and say why."""
    client.execute_command("ACL", "SETUSER", "default", "-info", "-acl")

    assert {look(number, settings).state for number in (18, 20, 21)} == {"skip"}
    assert look(18, settings).text.startswith("Redis refuses it: ")
    assert look(16, settings).state == "ok"


def test_jobs_that_need_an_operator(settings: Settings, queue: Queue, client: Any) -> None:
    """Each kind of trouble is named."""
    add(queue, 3)
    assert look(22, settings).state == "ok"
    keys = queue.keys
    client.set(keys.meta_paused, 1)
    found = look(22, settings)
    assert (found.state, found.fix.startswith("rudderpipe queue --resume")) == ("fail", True)
    client.rename(keys.wait, "elsewhere")
    assert look(22, settings).state == "warn"
    client.rename("elsewhere", keys.wait)
    client.delete(keys.meta_paused)
    client.delete(f"{keys.base}1")
    assert "the sender fails them" in look(22, settings).fix
    client.hset(f"{keys.base}2", "name", "of-another-program")
    assert "set another queue_name for rudderpipe" in look(22, settings).fix
    client.zadd(keys.completed, {str(number): number for number in range(queue_jobs.COMPLETED + 1)})
    assert "removeOnComplete" in look(22, settings).fix
    client.zadd(keys.failed, {"7": 7})
    assert "rudderpipe failed list" in look(22, settings).fix
    client.lpush(keys.active, "3")
    assert "start a sender" in look(22, settings).fix

    found = look(22, msgspec.structs.replace(settings, data_plane_id="another"))

    assert (found.state, found.fix) == ("fail", "set another queue_name, or rudderpipe queue --adopt")


def test_no_sender(settings: Settings, queue: Queue) -> None:
    """Jobs wait, and no process has the lease."""
    assert look(23, settings).state == "ok"
    add(queue, 1)

    found = look(23, settings)

    assert (found.state, found.fix.startswith("start one: systemctl start")) == ("fail", True)
    Lease(queue, 10_000, identity.address(), lambda _holder: False).take()
    assert look(23, settings).text.endswith(f"pid {os.getpid()}, lease 1")


def test_a_sender_that_was_killed(settings: Settings, queue: Queue) -> None:
    """Its lease has not lapsed, and nothing is sent."""
    program = "from rudderpipe.process import identity; print(identity.address())"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.decode().strip()
    assert Lease(queue, 60_000, ended, lambda _holder: False).take()
    add(queue, 1)

    found = look(23, settings)

    assert (found.state, found.fix.startswith("start one: systemctl start")) == ("fail", True)
    assert found.text.endswith(" has ended without giving the lease up")
    shown = snapshot.take(settings)
    assert (shown.lease, shown.lacks_sender(settings)) == (None, True)
    assert [each.text for each in findings.of(shown, settings) if each.code == "no_sender"] == [
        f"1 job waits in Redis, and its sender, pid {ended.split()[1]} on {ended.split()[0]}, has ended."
    ]


def test_another_worker_of_the_queue(settings: Settings, queue: Queue, client: Any, redis_server: RedisServer) -> None:
    """A worker of Bull has its own locks, and a connection with the queue's name in base64."""
    add(queue, 2)
    assert Lease(queue, 60_000, identity.address(), lambda _holder: False).take()
    (job,) = queue.take(1, 1_000_000)
    assert look(23, settings).state == "ok"
    client.set(f"{queue.keys.base}{job.id}:lock", "another")

    found = look(23, settings)

    assert (found.state, found.fix.startswith("isMultiProcessor for both")) == ("warn", True)
    client.delete(f"{queue.keys.base}{job.id}:lock")
    name = base64.b64encode(queue.name.encode()).decode()
    worker = redis.Redis(unix_socket_path=str(redis_server.socket), client_name=f"bull:{name}")
    worker.ping()
    assert "1 connections of Bull" in look(23, settings).text
    several = msgspec.structs.replace(settings, is_multi_processor=True)
    assert look(23, several).state == "ok"


def test_a_lane_behind_a_barrier(settings: Settings, queue: Queue, client: Any) -> None:
    """Which of them waits for the other is said."""
    assert look(29, settings).state == "skip"
    for number, options in (("a", '{"lane":"3/8"}'), ("b", '{"lane":"4/8"}')):
        client.hset(f"{queue.keys.base}{number}", "opts", options)
        client.lpush(queue.keys.active, number)
    assert look(29, settings).state == "ok"
    client.hset(f"{queue.keys.base}a", "attemptsMade", 2)
    assert look(29, settings).fix.startswith("look at check 24")
    client.hset(f"{queue.keys.base}c", "opts", "{}")
    client.lpush(queue.keys.active, "c")

    found = look(29, settings)

    assert (found.state, found.text) == ("warn", "jobs without a lane wait for all lanes")
    assert "Node SDKs another queue_name" in found.fix
    client.rpoplpush(queue.keys.active, queue.keys.active)
    client.rpoplpush(queue.keys.active, queue.keys.active)
    assert look(29, settings).text == "all lanes wait for jobs without a lane"


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (401, "correct write_key"),
        (404, "enable the source"),
        (302, "correct data_plane_url"),
        (503, "look at the status page"),
        (418, "look for a proxy or a firewall"),
    ],
)
def test_a_data_plane_that_refuses(settings: Settings, plane: DataPlaneServer, status: int, fix: str) -> None:
    """Each answer has its own advice."""
    assert look(24, settings).state == "ok"
    plane.misbehaviour = Misbehaviour(status)

    found = look(24, settings)

    assert (found.state, found.fix.startswith(fix)) == ("fail", True), found
    assert plane.stats()["events"] == 0


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("http://127.0.0.1:{port}", "correct host and port in data_plane_url"),
        ("http://does-not-exist.invalid", "correct the host in data_plane_url, or the DNS"),
        ("https://127.0.0.1:{plane}", "correct the port in data_plane_url, or write http://"),
    ],
)
def test_a_data_plane_that_cannot_be_reached(settings: Settings, plane: DataPlaneServer, url: str, fix: str) -> None:
    """By the step at which the connection fails."""
    there = url.format(port=shut_port(), plane=plane.server_address[1])

    found = look(24, msgspec.structs.replace(settings, data_plane_url=there))

    assert (found.state, found.fix.startswith(fix)) == ("fail", True), found


def test_a_data_plane_that_is_too_far_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is more than the requests can carry."""
    pipe = Examination(settings, environment={})
    assert look(25, settings, pipe).state == "skip"
    look(24, settings, pipe)
    assert look(25, settings, pipe).text.startswith("0 events/s are accepted, and at most ")
    monkeypatch.setattr(Examination, "rate_per_s", 1e9)

    found = look(25, settings, pipe)

    assert (found.state, "lanes" in found.fix) == ("warn", True)
    far = data_plane.capacity_per_s(settings, 0.5)
    assert data_plane.capacity_per_s(msgspec.structs.replace(settings, lanes=8), 0.5) > far


def test_a_kernel_that_hurts_a_local_redis(
    settings: Settings, client: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Huge pages, overcommit, and fewer files than clients. The kernel's files are stood in for."""
    monkeypatch.setattr(proc, "PROC", directory / "proc")
    monkeypatch.setattr(proc, "SYS", directory / "sys")
    server = client.info()
    files = {
        directory / "sys" / "kernel" / "mm" / "transparent_hugepage" / "enabled": (
            "always [madvise]",
            "[always] never",
        ),
        directory / "proc" / "sys" / "vm" / "overcommit_memory": ("1", "0"),
        directory / "proc" / str(server["process_id"]) / "limits": (
            "Max open files            100000               100000               files",
            "Max open files            17                   17                   files",
        ),
    }
    for path, (good, _) in files.items():
        path.parent.mkdir(parents=True)
        path.write_text(good)
    assert look(27, settings).state == "ok"
    for path, (_, bad) in files.items():
        path.write_text(bad)

    found = look(27, settings)

    assert found.state == "warn"
    for fix in ("echo madvise", "sysctl vm.overcommit_memory=1", "raise ulimit -n"):
        assert fix in found.fix


@pytest.fixture(name="tools")
def _tools(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that is alone on PATH, except for the shell's own commands."""
    tools = directory / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return tools


def tool(tools: Path, name: str, prints: str) -> None:
    """Put a program into the directory that prints a text."""
    path = tools / name
    path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{prints}\nEOF\n")
    path.chmod(0o755)


def test_a_login_user_whose_memory_systemd_removes(
    settings: Settings, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless logind's configuration says otherwise. The tools of systemd are not here, so programs print for them."""
    monkeypatch.setattr(host, "LOGIN_UID", 0)
    tool(tools, "systemd-analyze", "[Login]\n#RemoveIPC=yes\nRemoveIPC=no")
    assert look(14, settings).text == "RemoveIPC=no"
    tool(tools, "systemd-analyze", "[Login]\n#RemoveIPC=no")

    found = look(14, settings)

    assert (found.state, found.fix.startswith("RemoveIPC=no in logind.conf")) == ("warn", True)


def test_a_unit_that_removes_the_ring(
    processes: Processes, tools: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit of each process of the pipe is looked at."""
    client = processes.client(autostart=False)
    client.track("u", "e")
    monkeypatch.setattr(proc, "PROC", directory / "proc")
    (directory / "proc" / str(os.getpid())).mkdir(parents=True)
    (directory / "proc" / str(os.getpid()) / "cgroup").write_text("0::/system.slice/shop.service\n")
    tool(tools, "systemctl", "DynamicUser=no\nRemoveIPC=no\nTemporaryFileSystem=")
    assert look(15, processes.settings).state == "ok"
    tool(tools, "systemctl", "DynamicUser=yes\nRemoveIPC=yes\nTemporaryFileSystem=/dev/shm:ro")

    found = look(15, processes.settings)

    assert (found.state, found.fix.partition(";")[0]) == ("fail", "remove it: systemctl edit shop.service")
    assert "DynamicUser=yes, RemoveIPC=yes, TemporaryFileSystem=/dev/shm" in found.text


def test_a_pipe_that_is_well(processes: Processes, redis_server: RedisServer) -> None:
    """Nothing fails; one event goes the whole way; no secret is printed."""
    processes.explicit |= {"redis": redis_server.url, "write_key": KEY, "flush_interval_ms": 0}
    client = processes.client()
    assert client.track("u", "e")
    processes.delivered(1)

    done = processes.run("-m", "rudderpipe", "doctor", "--send-test")

    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    assert "FAIL" not in text
    assert "send test" in text
    assert "was delivered" in text
    assert KEY not in text
    assert processes.delivered(2)


def test_an_event_that_is_not_delivered(settings: Settings, plane: DataPlaneServer) -> None:
    """The send test says how far it came."""
    plane.misbehaviour = Misbehaviour(503)
    direct = msgspec.structs.replace(settings, redis=None, autostart=False)

    found = send_test.send(direct, wait_s=0.1)

    assert (found.state, found.text) == ("fail", "not delivered within 0.1 s: no flusher serves the ring")


@pytest.mark.parametrize(
    ("setting", "arguments", "code"),
    [
        ({}, [], 0),
        ({"data_plane_url": "http://127.0.0.1:1"}, ["--only", "plane"], 1),
        ({"data_plane_url": "http://127.0.0.1:1"}, ["--only", "host", "--only", "ring"], 0),
        ({"flush_at": 0}, [], 2),
        ({"write_key": ""}, [], 2),
        ({}, ["--only", "hosts"], 2),
    ],
)
def test_the_exit_code(processes: Processes, setting: dict[str, Any], arguments: list[str], code: int) -> None:
    """0 without a failure, 1 with one, 2 for wrong settings; only what was asked for is looked at."""
    processes.explicit |= setting

    done = processes.run("-m", "rudderpipe", "doctor", *arguments)

    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    groups = {each.group for each in CHECKS.values() if f"  {each.number:>2}  {each.name} " in done.stdout.decode()}
    if code != 2:
        assert groups == (set(arguments) - {"--only"} or {each.group for each in CHECKS.values()})


def test_a_redis_that_hangs_is_waited_for_once(settings: Settings, redis_server: RedisServer) -> None:
    """Its check is cut off after its time; the others of Redis do not wait again."""
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        findings = {each.number: each for each in run.run(Examination(settings, environment={}), ["redis"])}
    finally:
        redis_server.process.send_signal(signal.SIGCONT)

    assert findings[16].state == "fail"
    assert {each.state for number, each in findings.items() if number != 16} == {"skip"}
