"""Starts of our own programs as processes that outlive this one.

The settings go to the program's standard input, never into argv.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from rudderpipe.errors import ProcessNotStarted
from rudderpipe.process import runtime_dir

SERVICE_MANAGER_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables that systemd sets for one process alone."""
_LEFT_OUT = (*SERVICE_MANAGER_VARIABLES, "PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
"""Variables that a process of ours does not inherit.

It would report to systemd in its parent's name, and write into the folder of the application's metrics.
"""
BOOTSTRAP = """\
import sys
sys.path = [entry for entry in sys.path if entry]
import os, runpy
try:
    sys.path += [os.fsdecode(bytes.fromhex(word)) for word in sys.stdin.buffer.readline().decode().split()]
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit:
    pass
except BaseException:
    sys.excepthook(*sys.exc_info())
finally:
    os._exit(0)
"""
"""The code that a process of ours runs first.

Its standard library comes before everything else, so that no module of the application takes the place of one of the
library. It always exits with 0, because some servers take every child that exits with another code for a worker that
could not start. When the server is process 1, it is the parent of our orphans too.
"""
CHECKED = "redis can be used"
"""What a flusher that only checks prints when all is well."""
OTHER_PLANE = "the queue has jobs for another data plane: "
"""What such a flusher prints before the id of that data plane."""
FROZEN_ARGUMENT = "--rudderpipe-process"
"""The argument before the module's name when a frozen application is started as one of our processes."""
FROZEN_REASON = (
    "this application is frozen, so it has no Python to start processes with: call rudderpipe.freeze_support() first "
    "in its main module; or set autostart to false and run the flusher and the sender from an installed rudderpipe, or "
    "set sync_mode"
)
_HERE = os.path.abspath(f"{__file__}/../../..")  # noqa: PTH100  # before anything calls chdir
_PACKAGES = ("msgspec", "psutil", "redis", "urllib3", "isal", "hiredis", "tomli", "async_timeout")
_MODULES = ("typing_extensions",)
"""What our processes may import besides the standard library.

``redis`` imports ``async_timeout`` and ``typing_extensions`` on some versions of Python.
"""
_PYTHON = re.compile(r"(python|pypy|graalpy)w?\d*(\.\d+)*[a-z]?(-dbg|-intel64|-c)?", re.IGNORECASE)
_PYTHONS_PLACE = ("PYTHONHOME", "PYTHONPLATLIBDIR")
"""The variables without which some interpreters do not find their standard library."""

_started: list[subprocess.Popen[bytes]] = []
_frozen_entry = False


def is_frozen() -> bool:
    """Return whether ``sys.executable`` is the application: PyInstaller, cx_Freeze, py2app, PyOxidizer, Nuitka."""
    if getattr(sys, "frozen", False) or getattr(sys, "oxidized", False):
        return True
    compiled = getattr(sys.modules.get("__main__"), "__compiled__", None) or globals().get("__compiled__")
    return compiled is not None and bool(getattr(compiled, "standalone", True))  # Nuitka


def allow_frozen() -> None:
    """Allow starts of a frozen application as one of our processes, because it calls ``freeze_support``."""
    global _frozen_entry  # one process, one main module
    _frozen_entry = True


def interpreter() -> str:
    """Return the path of the Python to run.

    ``sys.executable`` is the server's binary where Python is embedded (uWSGI). Raises ``ProcessNotStarted``.
    """
    if _PYTHON.fullmatch(Path(sys.executable or "").name):
        return sys.executable
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for home in (sys.prefix, sys.exec_prefix, sys.base_prefix):
        for name in (version + getattr(sys, "abiflags", ""), version, "python3", "python"):
            found = Path(home) / "bin" / name
            if found.exists():
                return str(found)
    raise ProcessNotStarted(
        f"there is no Python to start it with: sys.executable is {sys.executable!r}, and {sys.prefix} holds none; set "
        "autostart to false and run the flusher and the sender as programs of their own"
    )


def folders() -> list[str]:
    """Return the folders of rudderpipe and its dependencies, for the end of a process's ``sys.path``."""
    found = [_HERE]
    for name in (*_PACKAGES, *_MODULES):
        if not any(_holds(folder, name) for folder in found):
            found += [os.path.abspath(folder) for folder in sys.path if _holds(folder, name)][:1]  # noqa: PTH100  # as above
    return found


def _holds(folder: str, name: str) -> bool:
    """Return whether the folder holds the package, and not the application's own module of the same name."""
    try:
        spec = PathFinder.find_spec(name, [folder])
    except Exception:  # noqa: BLE001  # an application's own path hooks may raise anything
        return False
    return spec is not None and spec.has_location and (bool(spec.submodule_search_locations) or name in _MODULES)


def _command() -> list[str]:
    if is_frozen():
        if not _frozen_entry:
            raise ProcessNotStarted(FROZEN_REASON)
        return [sys.executable, FROZEN_ARGUMENT]
    # Without site, which runs what other packages put there. With our UTF-8 mode, so that a path's text means the same
    # bytes in both processes.
    return [interpreter(), "-s", "-S", "-X", f"utf8={sys.flags.utf8_mode}", "-c", BOOTSTRAP]


def _environment() -> dict[str, str]:
    kept = () if sys.flags.ignore_environment else _PYTHONS_PLACE
    made = {
        name: value
        for name, value in os.environ.items()
        if name not in _LEFT_OUT and (name in kept or not name.startswith("PYTHON"))
    }
    if is_frozen():
        made["PYINSTALLER_RESET_ENVIRONMENT"] = "1"  # else the child of a one-file application uses its parent's folder
    return made


def start(
    module: str,
    settings: bytes,
    *arguments: str,
    log: Path | None = None,
    output: int = subprocess.DEVNULL,
    errors: int = subprocess.STDOUT,
    keep: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Start ``module --stdin`` in a session of its own, so that Ctrl-C at our terminal does not reach it.

    Its standard error is appended to ``log``; without ``log``, it goes to ``errors``, which is where ``output`` goes.
    The process inherits the descriptors ``keep``. Raises ``ProcessNotStarted`` or ``OSError``.
    """
    command = [*_command(), module, "--stdin", *arguments]
    reading, writing = os.pipe()
    opened = None
    try:
        # Order: write before there is a child, because SIGPIPE would kill this process if a child ended early. The
        # child reads lines, not to the end of the file, because that end does not come while a worker that was forked
        # meanwhile has the pipe open too.
        os.set_blocking(writing, False)
        paths = " ".join(os.fsencode(folder).hex() for folder in folders())  # a path may contain any byte
        payload = b"%b\n%b\n" % (paths.encode(), settings)
        if os.write(writing, payload) < len(payload):
            raise ProcessNotStarted("its settings do not fit into a pipe")
        if log:
            opened = errors = runtime_dir.open_log(log)
        return subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command,
            stdin=reading,
            stdout=output,
            stderr=errors,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            pass_fds=keep,
        )
    finally:
        os.close(reading)
        os.close(writing)
        if opened is not None:
            os.close(opened)


def start_detached(module: str, settings: bytes, *arguments: str, log: Path, keep: tuple[int, ...] = ()) -> None:
    """Start a program that is not a child of this process.

    An application that waits for its children must not meet it.
    """
    _started.append(start(module, settings, "--detach", *arguments, log=log, keep=keep))


def reap() -> None:
    """Collect the intermediate processes of ``start_detached`` that have ended; never wait."""
    _started[:] = [child for child in _started if child.poll() is None]
