"""Servers and worker pools that fork. A client made before the fork serves the parent and every child."""

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
        child.join()  # no timeout: a worker that the pool forks meanwhile may inherit the pipe that a timeout waits for
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
signal.alarm(30)  # kills a process that hangs, so that its parent fails
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
            signal.alarm(50)  # kills a child that hangs, which its parent counts
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
def test_a_preloaded_client_serves_gunicorns_master_and_workers(hosts: Hosts, worker: tuple[str, ...]) -> None:
    """The master tracks before and between the forks. The workers are replaced while they serve."""
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
def test_uwsgi_needs_no_hook_no_thread_and_no_lazy_app(hosts: Hosts, *, master: bool) -> None:
    """Nothing reports the fork to Python, and ``sys.executable`` is the server.

    The events of all workers are delivered.
    """
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
def test_a_pool_and_single_processes_track_at_the_same_time(hosts: Hosts, package: str, method: str) -> None:
    """The pool replaces its children.

    After a fork the client is the parent's. Otherwise the module makes a new one, or the client arrives pickled.
    """
    hosts.run(POOL, package, method)

    events = hosts.assert_all_arrived()
    assert len(events) == 100 + 12 * 50 + 200 + 2 * 50 + 200 + 10
    assert len({event.pid for event in events}) >= 1 + 6 + 2


def test_four_generations_of_processes_share_a_client(hosts: Hosts) -> None:
    """Eight processes track at once with a client that was made before the first fork."""
    hosts.processes.explicit["when_full"] = "block"  # eight processes want the claim lock, on few cores
    hosts.run(GENERATIONS)

    events = hosts.assert_all_arrived()
    assert len(events) == 20 + 8 * 220
    assert len({event.pid for event in events}) == 8


def test_a_child_forked_while_threads_track_can_track(hosts: Hosts) -> None:
    """Two hundred children are forked while four threads are anywhere in a call. Each child tracks, and none hangs."""
    # Four threads may get more of the machine than the flusher. The ring is then full at times, and calls wait.
    hosts.processes.explicit |= {"when_full": "block", "block_timeout_ms": 60_000}
    hosts.run(FORKS_IN_A_STORM)

    events = hosts.assert_all_arrived()
    assert sum(event.where == "child" for event in events) == 200 * 5
    assert sum(event.where.startswith("storm") for event in events) > 1000
