"""Fixtures for tests with real processes. Each test owns its Redis, its data plane, its directory and its processes."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from native_tests.hosts import Hosts
from native_tests.node_programs import NodePrograms
from native_tests.peers import Peers
from native_tests.processes import Processes
from native_tests.redis_versions import executables
from rudderpipe.testing import data_plane
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour
from rudderpipe.testing.redis_server import RedisServer
from tests import own_rings
from tests.own_rings import no_rings_are_left, pytest_sessionstart

__all__ = ["no_rings_are_left", "pytest_sessionstart"]  # a fixture and a hook
pytest.register_assert_rewrite("tests.queue_contract")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background job ignores SIGINT, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]  # no test may use a developer's proxy
# No test may write into a developer's home.
_state_home = tempfile.TemporaryDirectory(prefix="rp-state-")
os.environ["XDG_STATE_HOME"] = _state_home.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the storms first, because each takes up to minutes and would run alone at the end."""
    items.sort(key=lambda item: item.path.stem not in ("test_storm", "test_ingestion_storm", "test_queues_storm"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one where nothing may be skipped (CI as root)."""
    report = yield
    if report.skipped and os.environ.get("SKIPS_FAIL") and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped: {report.longrepr}"
    return report


@pytest.fixture(name="directory")
def _directory() -> Iterator[Path]:
    """Yield a directory with a short path, because the path of a Unix socket is limited."""
    path = Path(tempfile.mkdtemp(prefix="rp-"))
    yield path
    own_rings.remove(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(name="redis_server")
def _redis_server(directory: Path) -> Iterator[RedisServer]:
    """Yield a Redis server that keeps its data over a restart."""
    with RedisServer(directory, persistent=True) as server:
        yield server


@pytest.fixture(name="server", scope="module", params=executables().items(), ids=lambda known: f"redis-{known[0]}")
def _server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Yield a server of each version that is on this machine, once for a module."""
    with (
        tempfile.TemporaryDirectory(prefix="rp-") as directory,
        RedisServer(Path(directory), program=request.param[1]) as server,
    ):
        yield server


@pytest.fixture(name="plane")
def _plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataPlaneServer]:
    """Yield a data plane on a port that the system chose; ``misbehaviour`` can be changed at any time."""
    monkeypatch.setattr(data_plane, "LAST_EVENTS", 3_000)  # in requests, because a quick flusher makes more of them
    with DataPlaneServer(0, Misbehaviour()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(name="processes")
def _processes(directory: Path, plane: DataPlaneServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Yield the settings of a pipe of this test alone, and kill afterwards what was started for it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(directory / "state"))
    processes = Processes(directory, plane)
    yield processes
    processes.end()


@pytest.fixture(name="hosts")
def _hosts(processes: Processes, directory: Path) -> Hosts:
    """Return a pipe for programs that note each of their calls."""
    return Hosts(processes, directory)


@pytest.fixture(name="node")
def _node(directory: Path, redis_server: RedisServer) -> Iterator[NodePrograms]:
    """Yield Node programs on this test's Redis, and kill them afterwards."""
    with NodePrograms(redis_server.socket, directory) as programs:
        yield programs


@pytest.fixture(name="peers")
def _peers(processes: Processes, redis_server: RedisServer, node: NodePrograms) -> Iterator[Peers]:
    """Yield a queue that our side and Node's work on."""
    peers = Peers(processes, redis_server, node)
    yield peers
    peers.end()
