"""Processes that start automatically: their exit codes, their logs, and the application's log of a failed start."""

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
"""The folder of a gunicorn before 26.2, from ``make setup``. It halts when an orphan of process 1 exits with 3."""

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
    """Return a Python that takes that long to start and notes each start."""
    path = directory / "python3"
    path.write_text(f'#!/bin/sh\necho >> {directory}/starts\nsleep {seconds}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="makes a pid namespace, as root")
def test_gunicorn_as_process_1_outlives_a_slow_flusher_start(processes: Processes, directory: Path) -> None:
    """Only one flusher is started and each request gets its response.

    The master does not halt for one of our processes.
    """
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


def exit_code_of(
    processes: Processes, *arguments: str, settings: bytes | None = None, module: str = "rudderpipe.flusher"
) -> int:
    """Start one of our processes as autostart does, and return its exit code."""
    log = Path(processes.explicit["runtime_dir"]).parent / "ended.log"
    payload = msgspec.json.encode(processes.settings) if settings is None else settings
    child = spawn.start(module, payload, *arguments, log=log)
    processes.started.append(child)
    return child.wait(30)


def log_of(processes: Processes) -> str:
    """Return what the processes of ``exit_code_of`` wrote."""
    return (Path(processes.explicit["runtime_dir"]).parent / "ended.log").read_text()


@pytest.mark.parametrize("module", ["rudderpipe.flusher", "rudderpipe.sender"])
@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        (["--no-such-argument"], None, "no option --no-such-argument"),
        ([], b"{", "option --stdin"),
        ([], b"{}", "is missing"),
        ([], b'{"no_such_setting":1}', "option --stdin"),
    ],
)
def test_an_autostarted_process_logs_a_wrong_start_and_exits_with_0(
    processes: Processes, module: str, arguments: list[str], settings: bytes | None, reason: str
) -> None:
    """A server that is process 1 may take a child with another exit code for a worker that could not boot."""
    assert exit_code_of(processes, *arguments, settings=settings, module=module) == 0
    assert reason in log_of(processes)


def test_an_autostarted_second_flusher_exits_with_0(processes: Processes) -> None:
    """An operator's flusher exits with 3 in the same case."""
    processes.client().track("u", "e")
    processes.flusher()

    assert exit_code_of(processes) == 0
    assert "another flusher serves this pipe already" in log_of(processes)
    assert processes.run("-m", "rudderpipe.flusher").returncode == 3


def test_an_autostarted_flusher_without_a_ring_exits_with_0(processes: Processes) -> None:
    """An operator's flusher exits with 4 in the same case."""
    runtime_dir = Path(processes.explicit["runtime_dir"])
    runtime_dir.write_text("a file where the directory should be")

    assert exit_code_of(processes) == 0
    assert "runtime_dir must be a directory" in log_of(processes)
    assert processes.run("-m", "rudderpipe.flusher").returncode == 4


def test_an_autostarted_process_logs_an_unexpected_error(processes: Processes) -> None:
    """A missing module stands for any such error, whose traceback is in the log."""
    assert exit_code_of(processes, module="rudderpipe.no_such_module") == 0
    assert "No module named" in log_of(processes)


def test_an_autostarted_flusher_exits_with_0_after_a_second_signal(processes: Processes, directory: Path) -> None:
    """The flusher ends in the middle of a request. An operator's flusher exits with 5 in the same case."""
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
"""Each case has a user of its own above this one, because the limit counts all processes of a user."""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, as root")
@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (1, "the flusher cannot be started: "),  # the application cannot start any process
        (2, "the flusher that was started has ended: BlockingIOError: "),  # the process in between cannot start it
        (3, "the flusher that was started has ended: RuntimeError: can't start new thread"),
    ],
)
def test_the_application_logs_a_failed_start_of_the_flusher(
    processes: Processes, directory: Path, limit: int, said: str
) -> None:
    """The last line of the flusher's log is in the log that the application's operators read."""
    directory.chmod(0o755)
    runtime_dir = Path(processes.explicit["runtime_dir"])
    runtime_dir.mkdir(0o700)
    user = USER + limit
    os.chown(runtime_dir, user, user)
    log = runtime_dir / f"{processes.settings.pipe_name}.log"
    application = processes.start_program(
        *("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"),
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
