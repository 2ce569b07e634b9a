"""Applications frozen by PyInstaller, whose executable is the application and not Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from native_tests.processes import Processes
from rudderpipe.testing.redis_server import RedisServer

APP = """
import logging, os, sys

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(what + "\\n")

note("started")
import rudderpipe
if os.environ["SUPPORTED"] == "yes":
    rudderpipe.freeze_support()
note("ran")
logging.basicConfig()
client = rudderpipe.Client()
if client.settings.redis:
    client.create_persistence_queue()
note(f"tracked: {client.track('u', 'e')}")
result = client.flush(60, until="delivered")
note(f"flushed: {result.complete} {result.reason[:30]}".rstrip())
"""
pytestmark = pytest.mark.timeout(400)  # the build takes minutes
NAMES = ("python-ingest", "ingest", "one-file")


# The same as PyInstaller's command line makes, with one analysis for both forms.
SPEC = f"""
from PyInstaller.utils.hooks import collect_data_files

analysis = Analysis(["app.py"], datas=collect_data_files("rudderpipe"), excludes=["cryptography", "OpenSSL"])
archive = PYZ(analysis.pure)
EXE(archive, analysis.scripts, analysis.binaries, analysis.datas, name={NAMES[2]!r})
COLLECT(
    EXE(archive, analysis.scripts, name={NAMES[0]!r}, exclude_binaries=True),
    analysis.binaries,
    analysis.datas,
    name={NAMES[0]!r},
)
"""


@pytest.fixture(name="frozen", scope="module")
def _frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the application, which is frozen once and has three names."""
    directory = tmp_path_factory.mktemp("frozen")
    (directory / "app.py").write_text(APP)
    (directory / "app.spec").write_text(SPEC)
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR"]
    command += ["--distpath", str(directory / "dist"), "--workpath", str(directory / "build")]
    subprocess.run([*command, str(directory / "app.spec")], check=True, timeout=300)
    folder = directory / "dist" / NAMES[0]
    shutil.copy(folder / NAMES[0], folder / NAMES[1])
    (directory / "dist" / NAMES[2]).rename(folder / NAMES[2])
    return folder


class Frozen:
    """Runs of the frozen application, and its notes."""

    def __init__(self, processes: Processes, folder: Path, directory: Path) -> None:
        self._processes = processes
        self._folder = folder
        self._notes = directory / "notes"

    def run(self, name: str, *, supported: bool) -> tuple[list[str], str]:
        """Run the application to its end, and return its notes and its log."""
        own = {"NOTES": str(self._notes), "SUPPORTED": "yes" if supported else "no"}
        done = subprocess.run(
            [self._folder / name],
            env={**self._processes.environment, **own},
            capture_output=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return self._notes.read_text().splitlines(), done.stderr.decode()


@pytest.mark.parametrize("name", NAMES)
def test_autostart_never_runs_a_frozen_application_again(
    processes: Processes, frozen: Path, directory: Path, name: str
) -> None:
    """The log says that autostart cannot work, and the event waits in the ring for an operator's flusher.

    Another Python is not started either, because it has no rudderpipe. ``flush`` returns at once and does not use the
    minute that the application allows.
    """
    notes, logged = Frozen(processes, frozen, directory).run(name, supported=False)

    assert notes == ["started", "ran", "tracked: True", "flushed: False this application is frozen, so"]
    assert "autostart cannot work here: this application is frozen" in logged
    assert "rudderpipe.freeze_support()" in logged
    assert processes.status().events.in_ring == 1
    processes.start("-m", "rudderpipe.flusher")
    processes.delivered(1)


def test_the_redis_check_of_a_frozen_application_fails(
    processes: Processes, redis_server: RedisServer, frozen: Path, directory: Path
) -> None:
    """The check runs in a process of its own, so its failure is in the application's log."""
    processes.explicit["redis"] = redis_server.url
    notes, logged = Frozen(processes, frozen, directory).run(NAMES[0], supported=False)

    assert notes[:2] == ["started", "ran"]
    assert "the check failed: this application is frozen" in logged


@pytest.mark.parametrize("name", NAMES)
def test_freeze_support_runs_flusher_and_sender(
    processes: Processes, redis_server: RedisServer, frozen: Path, directory: Path, name: str
) -> None:
    """The executable starts again as flusher, sender or check, and nothing else of the application's code runs."""
    processes.explicit["redis"] = redis_server.url
    notes, logged = Frozen(processes, frozen, directory).run(name, supported=True)

    assert [note for note in notes if note != "started"] == ["ran", "tracked: True", "flushed: True"], processes.log()
    assert notes.count("started") == 5  # the application, the Redis check, the process in between, flusher, sender
    assert logged == ""
    assert processes.plane.stats()["unique_message_ids"] == 1
    sender = processes.sender()  # it must see that the flusher lives, although a loader started the flusher
    processes.client().track("u", "e")
    processes.delivered(2)
    assert sender.is_running()
    assert "sender ended" not in processes.log()
