"""Start one of our own programs as a process that outlives us, its settings on standard input, never in argv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rudderpipe import locks, notify

_started: list[subprocess.Popen[bytes]] = []


def interpreter() -> str:
    """The Python to run; ``sys.executable`` is the server's binary where Python is embedded (uWSGI)."""
    if Path(sys.executable or "").name.startswith(("python", "pypy")):
        return sys.executable
    for home in (sys.prefix, sys.exec_prefix, sys.base_prefix):
        for name in (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3", "python"):
            found = Path(home) / "bin" / name
            if found.exists():
                return str(found)
    return "python3"


def start(
    module: str, settings: bytes, *arguments: str, log: Path | None = None, output: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start ``python -m module --stdin`` in a session of its own, so that Ctrl-C at our terminal does not reach it.

    It finds modules just where this process does. ``log`` is appended to by its standard error.
    """
    # What it is will not be told to the service manager of who starts it, as if it were that.
    environment = {name: value for name, value in os.environ.items() if name not in notify.VARIABLES}
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100  # "" too
    command = [interpreter(), "-m", module, "--stdin", *arguments]
    errors = locks.open_log(log) if log else output
    try:
        child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    finally:
        if log:
            os.close(errors)
    assert child.stdin is not None
    try:
        child.stdin.write(settings)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it ended at once; its exit code says why
    return child


def start_detached(module: str, settings: bytes, *arguments: str, log: Path) -> None:
    """Start a program that is nobody's child: an application that waits for its children must not meet it."""
    _started.append(start(module, settings, "--detach", *arguments, log=log))


def reap() -> None:
    """Collect the go-betweens of ``start_detached`` that have ended; never waits."""
    _started[:] = [child for child in _started if child.poll() is None]
