"""Fixtures for hermetic tests: no test here may open a socket, start a process, fork or sleep."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rudderpipe.process import log_limit
from rudderpipe.ring import memory
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.settings import Settings
from rudderpipe.transports.callbacks import callbacks
from tests.fakes import FakeClock, settings_of
from tests.own_rings import no_rings_are_left, pytest_sessionstart

__all__ = ["no_rings_are_left", "pytest_sessionstart"]  # a fixture and a hook
pytest.register_assert_rewrite("tests.queue_contract")

for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]  # a developer's proxy must not change a result

# No test may write into a developer's home.
_state_home = tempfile.TemporaryDirectory(prefix="rp-state-")
os.environ["XDG_STATE_HOME"] = _state_home.name

FORBIDDEN = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn", "time.sleep"}
_armed = False


def _audit(name: str, _arguments: object) -> None:
    if _armed and name in FORBIDDEN:
        raise AssertionError(f"a hermetic test used {name}")


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def _hermetic() -> Iterator[None]:
    global _armed  # an audit hook cannot be removed
    _armed = True
    yield
    _armed = False
    callbacks._worker.forget()  # the next test must not wait for what this one has left to watch


@pytest.fixture
def golden() -> Path:
    """Return the directory of requests and dumps that the real Node SDK made."""
    return Path(__file__).parent / "golden"


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    """Return settings with which a ring has 1 MiB for 1,000 events."""
    return settings_of(tmp_path, ring_bytes=1 << 20, max_internal_queue_size=1000)


@pytest.fixture(name="ring")
def _ring(settings: Settings, clock: FakeClock) -> Iterator[Ring]:
    """Open the ring of the settings, under a name of its own."""
    ring = open_ring(settings, clock)
    yield ring
    memory.remove(ring.segment.name)


def pytest_sessionfinish() -> None:
    """Have no test's throttled log say at the end of the process what it held back."""
    for log in list(log_limit._all):
        log._lines.value.clear()
