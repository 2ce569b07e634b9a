"""Where a system has no POSIX shared memory, fcntl or fork, a developer can still import, check and test calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rudderpipe.testing.data_plane import DataPlaneServer

WINDOWS = """
import asyncio, gzip, http.client, http.server, importlib, io, logging, mmap, os, pathlib, queue, select, selectors
import shutil, signal, socket, socketserver, ssl, subprocess, sys, tempfile, threading, time, urllib.request, uuid, zlib
import msgspec, pytest, sysconfig, urllib3

sysconfig.get_config_vars()
MODULES = "_posixshmem _posixsubprocess fcntl grp nis posix pty pwd readline resource spwd syslog termios tty"
for name in MODULES.split():
    sys.modules[name] = None
LACKING = {
    os: "O_ASYNC O_CLOEXEC O_DIRECTORY O_DSYNC O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC WEXITSTATUS WIFEXITED "
    "WIFSIGNALED WNOHANG WTERMSIG WUNTRACED chown chroot eventfd fchdir fchmod fchown fdatasync fork forkpty getegid "
    "geteuid getgid getgroups getloadavg getpgid getpgrp getresuid getsid getuid getxattr initgroups killpg lchown "
    "lockf memfd_create mkfifo mknod nice openpty pipe2 posix_fadvise posix_fallocate posix_spawn posix_spawnp pread "
    "preadv pwrite pwritev readv register_at_fork sched_getaffinity sched_yield sendfile set_blocking setegid seteuid "
    "setgid setgroups setpgid setresgid setresuid setsid setuid statvfs sync sysconf uname wait wait3 wait4 waitid "
    "writev",
    mmap: "MAP_ANON MAP_ANONYMOUS MAP_POPULATE MAP_PRIVATE MAP_SHARED PROT_EXEC PROT_READ PROT_WRITE",
    signal: "SIGALRM SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGXCPU "
    "SIGXFSZ SIG_BLOCK SIG_SETMASK SIG_UNBLOCK alarm pause pthread_kill pthread_sigmask setitimer siginterrupt "
    "sigpending sigtimedwait sigwait sigwaitinfo",
    socket: "AF_UNIX",
    select: "epoll kqueue poll",
    time: "CLOCK_BOOTTIME CLOCK_MONOTONIC CLOCK_REALTIME clock_getres clock_gettime clock_settime tzset",
}
for owner, names in LACKING.items():
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)
for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
    delattr(mmap, name)
sys.platform = "win32"
io._WindowsConsoleIO = type("_WindowsConsoleIO", (), {})
"""
"""Takes away from Python what CPython on Windows lacks, after the standard library itself has been loaded."""


def run(program: str, *arguments: str, hidden: str = WINDOWS) -> subprocess.CompletedProcess[str]:
    """Run a program on such a system."""
    return subprocess.run(
        [sys.executable, "-c", hidden + program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def printed(program: str, *arguments: str) -> list[str]:
    """Return the lines that a program printed, which ended well."""
    done = run(program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_client_without_a_ring_checks_and_delivers(plane: DataPlaneServer) -> None:
    """``sync_mode`` delivers, ``enable=False`` counts, ``preview`` shows, and a wrong call is refused."""
    program = """
import rudderpipe
from rudderpipe.compat import rudderstack, segment
rudderpipe.freeze_support()
off = rudderpipe.Client("KEY", sys.argv[1], enable=False)
print(off.track("u", "e"), off.track("u", "e", {"a": object()}), dict(off.counts()))
print(off.preview("track", "u", "e")["userId"], bool(off.flush()))
with rudderpipe.Client("KEY", sys.argv[1], sync_mode=True) as client:
    print(client.track("u", "e"), client.identify("u", {"a": 1}), bool(client.flush()))
    told = []
    client.track("u", "e", callback=lambda error: told.append(error))
print(told)
"""
    found = printed(program, plane.url)

    assert found == [
        "True False {'accepted': 1, 'invalid': 1}",
        "u True",
        "True True True",
        "[None]",
    ]
    assert plane.stats()["unique_message_ids"] == 3


@pytest.mark.parametrize(
    ("hidden", "lacking"),
    [
        (WINDOWS, "module fcntl"),
        ("import os, sys\ndel os.fork\n", "os.fork"),
        ("import sys\nsys.platform = 'darwin'\nsys.modules['_posixshmem'] = None\n", "module _posixshmem"),
        ("import sys\nsys.modules['resource'] = None\n", "module resource"),
    ],
)
@pytest.mark.parametrize(
    "made", ["rudderpipe.Client('KEY', 'http://127.0.0.1:9')", "rudderpipe.configure('K', 'http://d')"]
)
def test_a_client_that_needs_the_ring_says_what_to_use_instead(hidden: str, lacking: str, made: str) -> None:
    """It says so when it is made, and not in the first request."""
    done = run(
        f"import rudderpipe\ntry: {made}\nexcept rudderpipe.SettingsError as error: print(error)\n", hidden=hidden
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"setting sync_mode: must be true here, because this system has no {lacking} for a ring in"
    )
    assert "set enable to false" in done.stdout


def test_the_pytest_plugin_works(tmp_path: Path) -> None:
    """Clients of a test need no ring, because their events are captured."""
    (tmp_path / "test_shop.py").write_text(
        """
import rudderpipe

def test_events(captured_events, assert_tracked):
    client = rudderpipe.Client("KEY", "https://dataplane.example.com")
    assert client.track("u", "Item Viewed", {"price": 5})
    assert_tracked("Item Viewed", user_id="u", properties={"price": 5})

def test_a_data_plane(rudderpipe_data_plane):
    client = rudderpipe.Client("KEY", rudderpipe_data_plane.url, sync_mode=True)
    assert client.track("u", "e")
    assert len(rudderpipe_data_plane.wait_for(1)) == 1
"""
    )
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler"]

    done = run(f"raise SystemExit(pytest.main({[*plugins, '-q', '--rootdir', str(tmp_path), str(tmp_path)]}))")

    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["status", "send", "drain", "failed list"])
def test_a_command_that_needs_the_ring_prints_one_line(command: str) -> None:
    """It ends as any command that cannot reach what it needs."""
    program = f"""
from rudderpipe.cli import main
raise SystemExit(main.main("{command} --write-key KEY --data-plane-url http://127.0.0.1:9".split()))
"""
    done = run(program)

    assert done.returncode == 4, done.stderr
    assert done.stderr == "rudderpipe: this command cannot run here, because this system has no module fcntl\n"
