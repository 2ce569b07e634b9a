"""Processes that start by themselves: how they end, what they need of the application, and what it is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import pytest

from native_tests.hosts import responds, status_of
from native_tests.processes import Processes, wait_until
from rudderpipe.process import spawn

GUNICORN_23 = Path(sys.prefix) / "gunicorn-23"
"""``make setup`` puts it there: the last ones of before 26.2 halt when process 1 meets an orphan that exits with 3."""

APP = """
import sys
sys.executable = {executable!r}
import rudderpipe
client = rudderpipe.Client()

def application(environ, start_response):
    accepted = client.track("u", "e")
    start_response("200 OK" if accepted else "503 Refused", [("content-length", "2")])
    return [b"ok"]
"""


def slow_python(directory: Path, seconds: float) -> Path:
    """A Python that takes that long to start, and notes each start."""
    path = directory / "python3"
    path.write_text(f'#!/bin/sh\necho >> {directory}/starts\nsleep {seconds}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="makes a pid namespace, as root")
def test_gunicorn_as_process_1_outlives_a_flusher_that_starts_slowly(processes: Processes, directory: Path) -> None:
    """The starts do not overlap, each request is answered, and the master halts for none of our processes."""
    assert GUNICORN_23.is_dir(), "run make setup"
    (directory / "app.py").write_text(APP.format(executable=str(slow_python(directory, 4))))
    listening = directory / "app.sock"
    path = os.pathsep.join([str(GUNICORN_23), str(Path.cwd())])
    server = processes.start_program(
        *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "env", f"PYTHONPATH={path}"),
        *(sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"unix:{listening}", "app:application"),
        cwd=directory,
    )
    wait_until(lambda: responds(listening))

    def served() -> bool:
        assert status_of(listening) == 200
        return processes.plane.stats()["events"] > 0

    wait_until(served)

    assert (directory / "starts").read_text().count("\n") == 1
    assert server.poll() is None
    assert responds(listening)


def ended(
    processes: Processes, *arguments: str, settings: bytes | None = None, module: str = "rudderpipe.flusher"
) -> int:
    """Start one of our processes as we do, and return its exit code."""
    log = Path(processes.explicit["runtime_dir"]).parent / "ended.log"
    payload = msgspec.json.encode(processes.settings) if settings is None else settings
    child = spawn.start(module, payload, *arguments, log=log)
    processes.started.append(child)
    return child.wait(30)


def log_of(processes: Processes) -> str:
    """What the processes of ``ended`` wrote."""
    return (Path(processes.explicit["runtime_dir"]).parent / "ended.log").read_text()


@pytest.mark.parametrize("module", ["rudderpipe.flusher", "rudderpipe.sender"])
@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        (["--no-such-argument"], None, "unrecognized arguments"),
        ([], b"{", "option --stdin"),
        ([], b"{}", "is missing"),
        ([], b'{"no_such_setting":1}', "option --stdin"),
    ],
)
def test_what_is_wrong_with_its_start_is_in_the_log_and_the_exit_code_is_0(
    processes: Processes, module: str, arguments: list[str], settings: bytes | None, reason: str
) -> None:
    """A server that is process 1 may take a child that exits with another code for a worker that could not boot."""
    assert ended(processes, *arguments, settings=settings, module=module) == 0
    assert reason in log_of(processes)


def test_a_flusher_that_finds_another_one_exits_with_0(processes: Processes) -> None:
    """An operator's exits with 3 in the same place."""
    processes.client().track("u", "e")
    processes.flusher()

    assert ended(processes) == 0
    assert "another flusher serves this pipe already" in log_of(processes)
    assert processes.run("-m", "rudderpipe.flusher").returncode == 3


def test_a_flusher_without_a_ring_exits_with_0(processes: Processes) -> None:
    """An operator's exits with 4 in the same place."""
    runtime_dir = Path(processes.explicit["runtime_dir"])
    runtime_dir.write_text("a file where the directory should be")

    assert ended(processes) == 0
    assert "runtime_dir must be a directory" in log_of(processes)
    assert processes.run("-m", "rudderpipe.flusher").returncode == 4


def test_an_error_that_was_not_expected_is_in_the_log_and_the_exit_code_is_0(processes: Processes) -> None:
    """A module that is not there stands for all of them; its traceback is in the log."""
    assert ended(processes, module="rudderpipe.no_such_module") == 0
    assert "No module named" in log_of(processes)


def test_leaving_at_once_exits_with_0(processes: Processes, directory: Path) -> None:
    """A second signal ends it in the middle of a request; an operator's flusher exits with 5 then."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        processes.explicit |= {
            "data_plane_url": f"http://127.0.0.1:{port}",
            "shutdown_timeout_s": 600,
            "timeout_s": 600,
        }
        processes.client(autostart=False).track("u", "e")
        child = spawn.start("rudderpipe.flusher", msgspec.json.encode(processes.settings), log=directory / "ended.log")
        processes.started.append(child)
        silent.settimeout(30)
        request, _ = silent.accept()

        def ends() -> bool:
            child.send_signal(signal.SIGTERM)
            return child.poll() is not None

        with request:
            wait_until(ends)

    assert child.returncode == 0
    assert "second SIGTERM, ending now" in log_of(processes)


FEW_PROCESSES = """
import resource, sys
import rudderpipe
resource.setrlimit(resource.RLIMIT_NPROC, ({limit}, {limit}))
client = rudderpipe.Client()
assert client.track("u", "e")
print("tracked", flush=True)
sys.stdin.readline()
assert not client.flush(2.0).complete
"""
USER = 54_321


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, as root")
@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (1, "the flusher cannot be started: "),  # not even what is to become one
        (2, "the flusher that was started has ended: BlockingIOError: "),  # nothing can leave the application
        (3, "the flusher that was started has ended: RuntimeError: can't start new thread"),
    ],
)
def test_a_start_that_fails_is_told_in_the_application(
    processes: Processes, directory: Path, limit: int, said: str
) -> None:
    """The last line of the flusher's own log is in the log that the application's operators see."""
    directory.chmod(0o755)
    runtime_dir = Path(processes.explicit["runtime_dir"])
    runtime_dir.mkdir(0o700)
    os.chown(runtime_dir, USER, USER)
    log = runtime_dir / f"{processes.settings.pipe_name}.log"
    application = processes.start_program(
        *("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"),
        *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),  # Python may live in root's home
        *(sys.executable, "-c", FEW_PROCESSES.format(limit=limit)),
        stdin=-1,
        stdout=-1,
        stderr=-1,
        cwd=Path.cwd(),
    )
    assert application.stdout is not None
    assert application.stdout.readline() == b"tracked\n"
    if limit > 1:
        wait_until(lambda: log.exists() and "Error: " in log.read_text())

    _, errors = application.communicate(b"\n", timeout=30)

    assert application.returncode == 0, errors
    assert said in errors.decode()
