"""Servers and worker pools that fork: a client made before the fork serves the parent and every child."""

from __future__ import annotations

import pytest

from native_tests.hosts import APP, Hosts, script

CONFIG = """
def pre_fork(server, worker):
    import app
    app.tally.track(app.client, 5, "master")
"""

POOL = """
import importlib, os, sys
import rudderpipe, tally

client = rudderpipe.Client()

def work(number):
    tally.track(client, 50, "work %d" % number)
    return number

def work_with(given, number):
    tally.track(given, 50, "work %d" % number)

if __name__ == "__main__":
    package, method = sys.argv[1:]
    context = importlib.import_module(package).get_context(method)
    tally.track(client, 100, "before")
    pool = context.Pool(3, maxtasksperchild=2)
    results = pool.map_async(work, range(12), chunksize=1)
    tally.track(client, 200, "at once")
    assert results.get(30) == list(range(12))
    children = [context.Process(target=work_with, args=(client, number)) for number in (12, 13)]
    for child in children:
        child.start()
    tally.track(client, 200, "again")
    for child in children:
        child.join()  # no timeout: a worker that the pool forks meanwhile may have inherited what that waits for
        assert child.exitcode == 0
    pool.close()
    pool.join()
    tally.track(client, 10, "after")
"""

GENERATIONS = """
import os, signal
import rudderpipe, tally

client = rudderpipe.Client()
tally.track(client, 20, "before")
for generation in range(3):
    os.fork()
signal.alarm(30)  # whoever hangs is killed, and fails its parent
tally.track(client, 200, "at once")
try:
    while True:
        assert os.wait()[1] == 0
except ChildProcessError:
    pass
tally.track(client, 20, "after")
"""

FORKS_IN_A_STORM = """
import os, signal, sys, threading
import rudderpipe, tally

client = rudderpipe.Client()
over = threading.Event()

def storm(where):
    while not over.is_set():
        tally.track(client, 20, where)

def fork_often():
    for number in range(200):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(50)  # a child that hangs is killed, and counted by its parent
            tally.track(client, 5, "child")
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            failed.append(number)

failed = []
sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=storm, args=("storm %d" % number,)) for number in range(4)]
forker = threading.Thread(target=fork_often)
for thread in (*threads, forker):
    thread.start()
forker.join()
over.set()
for thread in threads:
    thread.join()
assert not failed, failed
"""


@pytest.mark.parametrize(
    "worker", [("sync",), ("gthread", "--threads", "4"), ("gevent",)], ids=lambda worker: worker[0]
)
def test_gunicorn_preloaded(hosts: Hosts, worker: tuple[str, ...]) -> None:
    """Made in the master, used there before and between the forks and in workers that are recycled as they serve."""
    hosts.write("app", APP)
    config = hosts.write("config", CONFIG)
    socket = hosts.directory / "app.sock"
    settings = ("--workers", "2", "--max-requests", "15", "--bind", f"unix:{socket}", "--log-level", "critical")
    hosts.start("-m", "gunicorn", "--preload", "--config", config, *settings, "-k", *worker, "app:application")

    answered = hosts.serve(socket, processes=1 + 2 + 2)

    events = hosts.assert_all_arrived()
    assert answered >= 90
    assert len(events) >= 30 + 10 * answered
    assert {event.pid for event in events if event.where == "import"} == {
        event.pid for event in events if event.where == "master"
    }


@pytest.mark.parametrize("master", [True, False])
def test_uwsgi_without_hooks_threads_or_lazy_apps(hosts: Hosts, *, master: bool) -> None:
    """No hook tells Python of the fork, and the interpreter's name is the server's: all workers deliver."""
    hosts.write("app", APP)
    socket = hosts.directory / "app.sock"
    uwsgi = script("uwsgi")
    settings = ["--binary-path", uwsgi, "--http-socket", str(socket), "--module", "app", "--processes", "3"]
    settings += ["--disable-logging", "--logto", str(hosts.directory / "uwsgi.log")]
    hosts.start(uwsgi, *settings, *(["--master"] if master else []))

    answered = hosts.serve(socket, processes=4 if master else 3)

    events = hosts.assert_all_arrived()
    assert answered >= 90
    assert len(events) >= 30 + 10 * answered
    importer = {event.pid for event in events if event.where == "import"}
    workers = {event.pid for event in events if event.where.startswith("request")}
    assert len(importer) == 1
    assert (importer < workers) != master  # without a master the first worker is the process that imported


@pytest.mark.parametrize(
    ("package", "method"),
    [
        ("billiard", "fork"),
        ("multiprocessing", "fork"),
        ("multiprocessing", "forkserver"),
        ("multiprocessing", "spawn"),
    ],
)
def test_a_pool_and_processes(hosts: Hosts, package: str, method: str) -> None:
    """Parent and children at once, children recycled; with a fork the client is the parent's, else it is made
    anew, by the module or from the one that was handed over."""
    hosts.run(POOL, package, method)

    events = hosts.assert_all_arrived()
    assert len(events) == 100 + 12 * 50 + 200 + 2 * 50 + 200 + 10
    assert len({event.pid for event in events}) >= 1 + 6 + 2


def test_parent_children_and_grandchildren_at_once(hosts: Hosts) -> None:
    """Eight processes of four generations have one client made before the first fork."""
    hosts.run(GENERATIONS)

    events = hosts.assert_all_arrived()
    assert len(events) == 20 + 8 * 220
    assert len({event.pid for event in events}) == 8


def test_a_fork_while_other_threads_track(hosts: Hosts) -> None:
    """Two hundred children, forked while four threads are anywhere in a call: each tracks, and none hangs."""
    # Where the flusher gets less of the machine than four threads the ring is full at times: calls wait then.
    hosts.processes.explicit |= {"when_full": "block", "block_timeout_ms": 60_000}
    hosts.run(FORKS_IN_A_STORM)

    events = hosts.assert_all_arrived()
    assert sum(event.where == "child" for event in events) == 200 * 5
    assert sum(event.where.startswith("storm") for event in events) > 1000
