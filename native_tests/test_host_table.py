"""Every public call on every host that refuses something.

A call returns False or an incomplete result, gives the reason, and raises nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from native_tests import host_cells

CELLS = 34 * 35
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
MOUNTS = 'mount -t tmpfs tmpfs /mnt && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec "$0" "$1" "$2" "$3"'
DOCUMENTED = {
    "track_or_raise": {"RingUnavailable", "EventRefused"},
    "track_strictly": {"RingUnavailable", "EventRefused"},
}
"""The exceptions that a call may raise on a host, because the application asked for them."""
ALWAYS = {
    "a_client_that_is_made_there": True,
    "create_persistence_queue": True,
    "a_wrong_event": False,
    "shutdown": False,
    "warm_up": None,
    "collected_and_ended": None,
    "track_many": True,
}
"""What a call returns on every host."""
FLUSHES = ("flush", "flush_until_delivered", "flush_with_a_callback", "aflush")


class Expected(NamedTuple):
    """Whether a host accepts events (None: some of them), and the reason that it gives when it does not."""

    accepts: bool | None
    reason: str = ""


REFUSED_FILE = "belongs to another user or can be read by others"
HOSTS = {
    "nothing_special": Expected(True),
    "no_shared_memory": Expected(False, "there is no /dev/shm"),
    "an_empty_dev": Expected(False, "there is no /dev/shm"),
    "full_shared_memory": Expected(False, "no room for the first"),
    "read_only_shared_memory": Expected(False, "/dev/shm is read-only"),
    "shared_memory_of_root": Expected(False, "cannot be made: permission denied"),
    "a_foreign_empty_segment": Expected(False, REFUSED_FILE),
    "a_foreign_segment": Expected(False, "cannot be mapped: permission denied"),
    "a_foreign_empty_segment_for_root": Expected(False, REFUSED_FILE),
    "a_segment_that_is_a_directory": Expected(False, "cannot be mapped: Is a directory"),
    "an_empty_segment_of_a_dead_maker": Expected(True),
    "a_runtime_directory_of_another_user": Expected(False, "runtime_dir must be a directory that only its owner"),
    "a_runtime_directory_that_is_a_file": Expected(False, "runtime_dir must be a directory that only its owner"),
    "a_runtime_directory_in_one_of_root": Expected(False, "runtime_dir cannot be made: Permission denied"),
    "a_full_runtime_directory": Expected(False, "the lock file cannot be written: No space left on device"),
    "a_read_only_runtime_directory": Expected(False, "the lock file cannot be opened: Read-only file system"),
    "a_foreign_lock_file": Expected(False, "the lock file cannot be opened: Permission denied"),
    "a_foreign_lock_file_for_root": Expected(False, "the lock file must be a regular file of this user"),
    "an_unreadable_lock_file": Expected(False, "the lock file cannot be opened: Permission denied"),
    "a_lock_file_that_is_a_fifo": Expected(False, "the lock file must be a regular file of this user"),
    "a_umask_of_0177": Expected(True),
    "a_umask_of_0777": Expected(True),
    "no_proc": Expected(True),
    "a_proc_that_hides_others": Expected(True),
    "standard_descriptors_closed": Expected(True),
    "every_descriptor_closed_later": Expected(None),
    "every_descriptor_closed_and_given_away_later": Expected(None),
    "twelve_descriptors": Expected(True),
    "sixteen_descriptors": Expected(True),
    "no_descriptor_left": Expected(None),
    "small_files_only": Expected(False, "RLIMIT_FSIZE (ulimit -f) is 4,096 bytes"),
    "empty_files_only": Expected(False, "RLIMIT_FSIZE (ulimit -f) is 0 bytes"),
    "no_further_process": Expected(True),
    "no_memory_for_a_ring": Expected(False, "Cannot allocate memory"),
    "no_room_for_anything_large": Expected(False, "Cannot allocate memory"),
}
COMMAND_HOSTS = (
    *("no_shared_memory", "full_shared_memory", "read_only_shared_memory", "a_foreign_empty_segment_for_root"),
    *("a_foreign_lock_file_for_root", "a_runtime_directory_that_is_a_file"),
)
"""The hosts that refuse root too."""


def test_the_table_has_every_host_and_every_call() -> None:
    """A new call or a new host must be added to the table."""
    assert set(HOSTS) == set(host_cells.HOSTS)
    assert len(HOSTS) * len(host_cells.CALLS) == CELLS


def cells_of(name: str, what: str) -> list[dict[str, Any]]:
    """Return the results of all calls, or of all commands, on a host."""
    done = subprocess.run(
        [*NAMESPACES, "sh", "-c", MOUNTS, sys.executable, host_cells.__file__, name, what],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("name", COMMAND_HOSTS)
def test_a_command_reports_what_a_host_refuses(name: str) -> None:
    """It prints one line and no traceback, and ends with a documented exit code. A status without a ring says so."""
    cells = cells_of(name, "commands")

    assert [cell["call"] for cell in cells] == list(host_cells.COMMANDS)
    for cell in cells:
        assert cell["exit"] in (0, 1, 4), cell
        assert "Traceback" not in cell["stderr"], cell
        assert host_cells.KEY not in cell["stderr"]
        assert host_cells.PAYLOAD not in cell["stderr"]
        if cell["call"] in ("rudderpipe send", "rudderpipe.flusher"):
            assert cell["exit"] == 4
            assert HOSTS[name].reason in cell["stderr"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, and mount")
@pytest.mark.parametrize("name", HOSTS)
def test_a_call_reports_what_a_host_refuses_and_raises_nothing(name: str) -> None:
    """Only documented exceptions may come. The process goes on, and shows no secret and no traceback."""
    cells = cells_of(name, "calls")

    assert [cell["call"] for cell in cells] == list(host_cells.CALLS)
    found = [problem for cell in cells for problem in problems(cell, HOSTS[name])]
    assert not found, "\n".join(found)


def problems(cell: dict[str, Any], expected: Expected) -> list[str]:
    """Return the problems of one cell."""
    name, output = cell["call"], cell["stderr"] + cell.get("said", "")
    found = [] if cell["exit"] == 0 else [f"exit code {cell['exit']}"]
    if "raised" in cell and cell["raised"] not in DOCUMENTED.get(name, ()):
        found.append(f"raised {cell['where']}")
    if "Traceback" in cell["stderr"]:
        found.append("printed a traceback")
    found += [f"shows {secret}" for secret in (host_cells.KEY, host_cells.PAYLOAD) if secret in output]
    if "raised" not in cell and not is_right(name, cell.get("returned"), expected):
        found.append(f"returned {cell.get('returned')}")
    if expected.accepts is False and expected.reason not in output and name not in ("warm_up", "flush_what_never_was"):
        found.append(f"does not report {expected.reason!r}")
    lines = cell["stderr"].splitlines()
    # One line a second for each reason, however many calls there are. The first line of a forked child and the rest
    # that is said at the end may repeat it.
    if len(lines) > len(set(lines)) + 2 + int(cell["took_s"]):
        found.append("repeats a line too often")
    return [f"{name}: {problem}: {cell['stderr'][-1000:]}" for problem in found]


def is_right(name: str, returned: Any, expected: Expected) -> bool:
    """Return True if a call returned what it must on such a host."""
    if name in FLUSHES:
        if expected.accepts is False:
            return not returned["complete"] and expected.reason in returned["reason"] and not returned["pending"]
        return not returned["complete"]  # nothing drains the ring
    if name == "flush_what_never_was":
        return bool(returned == "any")
    if name in ALWAYS and not (name == "track_many" and expected.accepts is None):
        return bool(returned is ALWAYS[name])
    return returned in (True, False) if expected.accepts is None else bool(returned is expected.accepts)
