"""A runtime directory that containers share while each has shared memory of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rudderpipe.flusher import leftovers
from rudderpipe.ring import layout as at

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("byte", [at.LOCK_CLAIM, at.LOCK_FLUSHER, at.LOCK_SLOT, at.LOCK_SLOT + at.SLOTS - 1])
def test_a_lock_file_that_a_process_uses_stays(directory: Path, byte: int) -> None:
    """The ring of the lock file is in another container's memory.

    The file goes once no process holds any of its locks.
    """
    path = directory / "x-v4.lock"
    path.write_text("{}")
    command = [sys.executable, "-c", HOLDER, str(path), str(byte)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        leftovers.sweep(directory, [])
        assert path.exists()
        holder.kill()

    leftovers.sweep(directory, [])
    assert not path.exists()
