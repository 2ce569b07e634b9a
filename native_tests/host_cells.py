"""A program for namespaces of its own that makes every public call on one host, each in a forked process.

It imports rudderpipe as an application does, makes the host, and reports the result of each call.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import inspect
import json
import logging
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import rudderpipe
from rudderpipe.compat import rudderstack, segment
from rudderpipe.ring import location
from rudderpipe.transports import queue_check, ring, sync

LOADED = (hashlib, inspect, queue, ring, queue_check, sync)
"""Modules that calls load on demand. They are loaded here, because another user may not be able to read them."""
KEY = "WRITE_KEY_THAT_NO_LOG_MAY_SHOW"
PAYLOAD = "PAYLOAD_THAT_NO_LOG_MAY_SHOW"
URL = "http://127.0.0.1:9"
HUGE = PAYLOAD * 120_000
LARGE = PAYLOAD * 10_000
"""Made beforehand, because the text must not be what the host has no room for."""
USER, OTHER = 12_345, 23_456
REPORT = 200
"""The descriptor for a cell's report, which no host closes."""
DEADLINE_S = 30.0
RUNTIME = Path("/mnt/host-cells")
SHM = Path("/dev/shm")
SETTINGS: dict[str, Any] = {"runtime_dir": str(RUNTIME / "run"), "pipe": "cells", "autostart": False}

Call = Callable[..., Any]
CALLS: dict[str, Call] = {}
HOSTS: dict[str, Call] = {}
AFTERWARDS: dict[str, Call] = {}
"""The functions that change a host once a client has tracked."""
AS_USER: set[str] = set()


def call(function: Call) -> Call:
    """Register a call, which gets a function that makes clients."""
    CALLS[function.__name__] = function
    return function


def host(*, user: bool = False) -> Callable[[Call], Call]:
    """Register a host; with ``user`` the application is not root."""

    def register(function: Call) -> Call:
        HOSTS[function.__name__] = function
        if user:
            AS_USER.add(function.__name__)
        return function

    return register


# The calls.


@call
def identify(client: Call) -> Any:
    return client().identify("u", {"p": PAYLOAD})


@call
def track(client: Call) -> Any:
    return client().track("u", "e", {"p": PAYLOAD})


@call
def track_a_mapping(client: Call) -> Any:
    return client().track({"userId": "u", "event": "e", "properties": {"p": PAYLOAD}})


@call
def track_a_large_one(client: Call) -> Any:
    return client().track("u", "e", {"p": LARGE})


@call
def track_a_huge_one(client: Call) -> Any:
    return client().track("u", "e", {"p": HUGE})


@call
def track_with_a_callback(client: Call) -> Any:
    return client().track("u", "e", {"p": PAYLOAD}, callback=lambda _error, _message: None)


@call
def track_many(client: Call) -> Any:
    one = client()
    return {one.track("u", "e", {"p": PAYLOAD}) for _ in range(300)} in ({True}, {False})


@call
def track_with_on_error(client: Call) -> Any:
    return client(on_error=lambda _error, _messages: None).track("u", "e", {"p": PAYLOAD})


@call
def track_or_block(client: Call) -> Any:
    return client(when_full="block", block_timeout_ms=20).track("u", "e", {"p": PAYLOAD})


@call
def track_or_raise(client: Call) -> Any:
    return client(when_full="raise").track("u", "e", {"p": PAYLOAD})


@call
def track_strictly(client: Call) -> Any:
    return client(strict=True).track("u", "e", {"p": PAYLOAD})


@call
def track_in_a_forked_child(client: Call) -> Any:
    one = client()
    before = one.track("u", "e", {"p": PAYLOAD})
    try:
        child = os.fork()
    except OSError:
        return before
    if not child:
        raise SystemExit(one.track("u", "e", {"p": PAYLOAD}) is not before)
    return os.waitpid(child, 0)[1] == 0 and before


@call
def page(client: Call) -> Any:
    return client().page("u", "c", "n", {"p": PAYLOAD})


@call
def screen(client: Call) -> Any:
    return client().screen("u", "c", "n", {"p": PAYLOAD})


@call
def group(client: Call) -> Any:
    return client().group("u", "g", {"p": PAYLOAD})


@call
def alias(client: Call) -> Any:
    return client().alias("a", "u")


@call
def a_wrong_event(client: Call) -> Any:
    return client().track(None, "e")


@call
def flush(client: Call) -> Any:
    one = client()
    one.track("u", "e", {"p": PAYLOAD})
    return result_of(one.flush(one.patience_s))


@call
def flush_until_delivered(client: Call) -> Any:
    one = client()
    one.track("u", "e", {"p": PAYLOAD})
    return result_of(one.flush(one.patience_s, until="delivered"))


@call
def flush_with_a_callback(client: Call) -> Any:
    one = client()
    one.track("u", "e", {"p": PAYLOAD})
    return result_of(one.flush(one.patience_s, callback=lambda _error, _result: None))


@call
def flush_what_never_was(client: Call) -> Any:
    one = client()
    one.flush(one.patience_s)
    return "any"


@call
def aflush(client: Call) -> Any:
    # The loop has descriptors of its own, which must be opened before none are left, and after all are closed.
    loop = asyncio.new_event_loop() if "no_descriptor_left" in AFTERWARDS else None
    one = client()
    one.track("u", "e", {"p": PAYLOAD})
    loop = loop or asyncio.new_event_loop()
    try:
        return result_of(loop.run_until_complete(one.aflush(one.patience_s)))
    finally:
        with suppress(OSError, ValueError):  # its descriptors may be closed already
            loop.close()


@call
def shutdown(client: Call) -> Any:
    one = client()
    one.track("u", "e", {"p": PAYLOAD})
    one.shutdown(one.patience_s)
    one.shutdown()
    return one.track("u", "e", {"p": PAYLOAD})


@call
def counts(client: Call) -> Any:
    one = client()
    one.track("u", "e", {"p": PAYLOAD})
    return one.counts().get("accepted", 0) > 0


@call
def warm_up(client: Call) -> Any:
    return client().warm_up()


@call
def a_with_statement(client: Call) -> Any:
    with client(shutdown_timeout_s=0.05) as one:
        return one.track("u", "e", {"p": PAYLOAD})


@call
def a_pickled_client(client: Call) -> Any:
    return pickle.loads(pickle.dumps(client())).track("u", "e", {"p": PAYLOAD})


@call
def the_default_client(client: Call) -> Any:
    made = client(make=rudderpipe.configure, shutdown_timeout_s=0.05)
    accepted = rudderpipe.default_client().track("u", "e", {"p": PAYLOAD})
    rudderpipe.configure(KEY, URL, enable=False)
    return accepted and made is not rudderpipe.default_client()


@call
def within_a_request(client: Call) -> Any:
    with rudderpipe.request_context({"ip": "1.2.3.4"}):
        return client().track("u", "e", {"p": PAYLOAD})


@call
def create_persistence_queue(client: Call) -> Any:
    one = client()
    one.create_persistence_queue("redis://127.0.0.1:9")
    return one.track("u", "e") in (True, False)  # the pipe of the queue has another name and other files


@call
def rudder_sdk_python(client: Call) -> Any:
    return result_of_drop_in(client(make=rudderstack.Client))


@call
def segment_analytics_python(client: Call) -> Any:
    return result_of_drop_in(client(make=segment.Client))


@call
def a_client_that_is_made_there(client: Call) -> Any:
    client()
    second = rudderpipe.Client(KEY, URL, **{**SETTINGS, "pipe": "another"})
    return second.track("u", "e", {"p": PAYLOAD}) in (True, False)


@call
def collected_and_ended(client: Call) -> Any:
    """Run the client's destructor, and those at the interpreter's end."""
    one = client()
    one.track("u", "e", {"p": PAYLOAD})
    del one
    return None


def result_of_drop_in(one: Any) -> Any:
    """Return what a drop-in's ``track`` returns, after its other calls.

    These are left out on a host with a ring and no flusher, because they wait for 10 s there.
    """
    told, _ = one.track("u", "e", {"p": PAYLOAD})
    if not one.works:
        one.flush()
        one.join()
        one.shutdown()
    return told


def result_of(result: Any) -> Any:
    """Return a flush's result as JSON."""
    return {"complete": bool(result), "pending": result.pending, "reason": result.reason}


# The hosts.


@host()
def nothing_special() -> None:
    """Change nothing, for comparison."""


@host(user=True)
def no_shared_memory() -> None:
    run("mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9")


@host(user=True)
def an_empty_dev() -> None:
    SETTINGS["autostart"] = True
    run("mount -t tmpfs tmpfs /dev")


@host(user=True)
def full_shared_memory() -> None:
    run("mount -t tmpfs -o size=64k,mode=1777 tmpfs /dev/shm")


@host(user=True)
def read_only_shared_memory() -> None:
    run("mount -t tmpfs -o ro,mode=1777 tmpfs /dev/shm")


@host(user=True)
def shared_memory_of_root() -> None:
    SHM.chmod(0o755)


def segment_file(uid: int) -> Path:
    """Return the path of the segment of that user's ring."""
    give(run_directory(), uid, 0o700)
    name = location.RingLocation(run_directory(), "cells").segment
    return SHM / name.replace(f"-{os.getuid()}-", f"-{uid}-")


@host(user=True)
def a_foreign_empty_segment() -> None:
    file = segment_file(USER)
    file.touch()
    give(file, OTHER, 0o666)


@host(user=True)
def a_foreign_segment() -> None:
    file = segment_file(USER)
    file.write_bytes(b"theirs" * 1000)
    give(file, OTHER, 0o600)


@host()
def a_foreign_empty_segment_for_root() -> None:
    file = segment_file(0)
    file.touch()
    give(file, OTHER, 0o666)


@host(user=True)
def a_segment_that_is_a_directory() -> None:
    segment_file(USER).mkdir()


@host(user=True)
def an_empty_segment_of_a_dead_maker() -> None:
    file = segment_file(USER)
    file.touch()
    give(file, USER, 0o600)


@host(user=True)
def a_runtime_directory_of_another_user() -> None:
    give(run_directory(), OTHER, 0o700)


@host(user=True)
def a_runtime_directory_that_is_a_file() -> None:
    run_directory().rmdir()
    Path(SETTINGS["runtime_dir"]).touch()


@host(user=True)
def a_runtime_directory_in_one_of_root() -> None:
    run_directory().rmdir()
    RUNTIME.chmod(0o755)
    os.chown(RUNTIME, 0, 0)


@host(user=True)
def a_full_runtime_directory() -> None:
    give(run_directory(), USER, 0o700)
    run(f"mount -t tmpfs -o size=4k,mode=700,uid={USER} tmpfs {SETTINGS['runtime_dir']}")
    full = Path(SETTINGS["runtime_dir"]) / "full.log"
    full.write_bytes(b"x" * 4096)


@host(user=True)
def a_read_only_runtime_directory() -> None:
    run_directory()
    run(f"mount -t tmpfs -o ro,mode=700,uid={USER} tmpfs {SETTINGS['runtime_dir']}")


def lock_file(uid: int) -> Path:
    """Return the path of the pipe's lock file, in a runtime directory of that user."""
    give(run_directory(), uid, 0o700)
    return location.RingLocation(run_directory(), "cells").lock_file


@host(user=True)
def a_foreign_lock_file() -> None:
    lock_file(USER).touch()
    give(lock_file(USER), OTHER, 0o600)


@host()
def a_foreign_lock_file_for_root() -> None:
    lock_file(0).touch()
    give(lock_file(0), OTHER, 0o600)


@host(user=True)
def an_unreadable_lock_file() -> None:
    lock_file(USER).touch()
    give(lock_file(USER), USER, 0o000)


@host(user=True)
def a_lock_file_that_is_a_fifo() -> None:
    os.mkfifo(lock_file(USER))
    give(lock_file(USER), USER, 0o600)


@host(user=True)
def a_umask_of_0177() -> None:
    os.umask(0o177)


@host(user=True)
def a_umask_of_0777() -> None:
    os.umask(0o777)


@host(user=True)
def no_proc() -> None:
    run("mount -t tmpfs tmpfs /proc")


@host(user=True)
def a_proc_that_hides_others() -> None:
    run("mount -t proc -o hidepid=2 proc /proc")


@host()
def standard_descriptors_closed() -> None:
    os.closerange(0, 3)


@host()
def every_descriptor_closed_later() -> None:
    def later() -> None:
        os.closerange(0, REPORT)
        os.closerange(REPORT + 1, 1000)

    AFTERWARDS["every_descriptor_closed_later"] = later


@host()
def every_descriptor_closed_and_given_away_later() -> None:
    def later() -> None:
        os.closerange(3, REPORT)
        for _ in range(10):
            os.open("/dev/null", os.O_RDONLY)

    AFTERWARDS["every_descriptor_closed_and_given_away_later"] = later


@host()
def twelve_descriptors() -> None:
    SETTINGS["autostart"] = True
    limit(resource.RLIMIT_NOFILE, 12)


@host()
def sixteen_descriptors() -> None:
    SETTINGS["autostart"] = True
    limit(resource.RLIMIT_NOFILE, 16)


@host()
def no_descriptor_left() -> None:
    # glibc loads this library when the interpreter ends a thread at its own end, and aborts where it cannot.
    ctypes.CDLL("libgcc_s.so.1")

    def later() -> None:
        limit(resource.RLIMIT_NOFILE, 3)

    AFTERWARDS["no_descriptor_left"] = later


@host()
def small_files_only() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    limit(resource.RLIMIT_FSIZE, 4096)


@host()
def empty_files_only() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    limit(resource.RLIMIT_FSIZE, 0)


@host(user=True)
def no_further_process() -> None:
    SETTINGS["autostart"] = True
    limit(resource.RLIMIT_NPROC, 1)


@host()
def no_memory_for_a_ring() -> None:
    limit(resource.RLIMIT_AS, memory_bytes() + (24 << 20))


@host()
def no_room_for_anything_large() -> None:
    limit(resource.RLIMIT_AS, memory_bytes() + (1 << 20))


def run(command: str) -> None:
    """Run a shell command, as root."""
    if os.system(command):
        raise SystemExit(f"cannot: {command}")


def give(path: Path, uid: int, mode: int) -> None:
    """Give the path to another user."""
    os.chown(path, uid, uid)
    path.chmod(mode)


def run_directory() -> Path:
    """Make the runtime directory, as an operator would, and return its path."""
    path = Path(SETTINGS["runtime_dir"])
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def limit(which: int, value: int) -> None:
    """Set a limit that cannot be raised again."""
    resource.setrlimit(which, (value, value))


def memory_bytes() -> int:
    """Return the size of the used address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# The part that runs calls and commands.

LATE = ("umask", "descriptors", "descriptor", "files_only", "process", "memory_for", "room_for")
"""Words in the names of hosts that concern one process, which each cell makes anew."""


def is_of_a_process(name: str) -> bool:
    """Return True if each cell makes the host in its own process."""
    return any(word in name for word in LATE)


def cell(host_name: str, function: Call) -> dict[str, Any]:
    """Make one call in this process, as an application would."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    if host_name in AS_USER:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    if is_of_a_process(host_name):
        HOSTS[host_name]()
    afterwards = AFTERWARDS.get(host_name)

    def client(make: Call = rudderpipe.Client, **settings: Any) -> Any:
        one = make(KEY, URL, **SETTINGS, **settings)
        told = one.track("u", "first") if "when_full" not in settings and "strict" not in settings else False
        if afterwards is not None:
            afterwards()
        one.works = told[0] if isinstance(told, tuple) else told
        one.patience_s = 0.05 if one.works else 3_600.0
        return one

    try:
        found = function(client)
    except Exception as error:  # noqa: BLE001  # the report names any exception
        return {"raised": type(error).__name__, "said": str(error), "where": traceback.format_exc()}
    return {"returned": found}


def forked(host_name: str, function: Call) -> dict[str, Any]:
    """Run a cell in a process of its own, and return its report, its output, its duration and its exit code."""
    (report, to_report), (said, to_say) = os.pipe(), os.pipe()  # pipes, because a host may limit the size of files
    child = os.fork()
    if not child:
        os.dup2(to_report, REPORT, inheritable=False)
        os.dup2(to_say, 2)
        os.dup2(to_say, 1)
        os.closerange(3, REPORT)
        found = json.dumps(cell(host_name, function)).encode()
        os.write(REPORT, found)
        raise SystemExit(0)  # the end of an application, with destructors and functions of atexit
    os.close(to_report)
    os.close(to_say)
    began_s = time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > began_s + DEADLINE_S:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    took_s = time.monotonic() - began_s
    with os.fdopen(report) as outcome:
        found = json.loads(outcome.read() or "{}")
    os.set_blocking(said, False)  # a process that the cell started may have the pipe open too
    with os.fdopen(said, "rb") as text:
        found["stderr"] = (text.read() or b"").decode(errors="replace")
    return {**found, "took_s": took_s, "exit": os.waitstatus_to_exitcode(ended[1])}


COMMANDS = (
    "rudderpipe status",
    "rudderpipe status --json",
    "rudderpipe send",
    "rudderpipe drain",
    "rudderpipe.flusher",
)


def command(text: str) -> dict[str, Any]:
    """Run an operator's command with one event on its standard input."""
    own = {"WRITE_KEY": KEY, "DATA_PLANE_URL": URL, "PIPE": "cells", "RUNTIME_DIR": SETTINGS["runtime_dir"]}
    done = subprocess.run(
        [sys.executable, "-m", *text.split()],
        env={**os.environ, **{f"RUDDERPIPE_{name}": value for name, value in own.items()}},
        input=json.dumps({"type": "track", "userId": "u", "event": "e", "properties": {"p": PAYLOAD}}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return {"stderr": done.stderr, "exit": done.returncode}


def main(host_name: str, what: str) -> None:
    """Make every call, or run every command, on that host, and print one line of JSON for each."""
    RUNTIME.mkdir(mode=0o755, exist_ok=True)
    if host_name in AS_USER:
        os.chown(RUNTIME, USER, USER)
    if not is_of_a_process(host_name):
        HOSTS[host_name]()
    for text in COMMANDS if what == "commands" else ():
        print(json.dumps({"call": text, **command(text)}), flush=True)
    for name, function in CALLS.items() if what == "calls" else ():
        print(json.dumps({"call": name, **forked(host_name, function)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
