"""The completion of the command line in a shell, by argcomplete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from native_tests.processes import Processes
from rudderpipe.ring import location

BIN = Path(sys.executable).parent
COMPLETES = """
eval "$(register-python-argcomplete rudderpipe)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
COMP_WORDS=($1)
case $1 in *' ') COMP_WORDS+=('') ;; esac
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete rudderpipe
printf '%s\\n' "${COMPREPLY[@]}"
"""

pytestmark = [
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
    pytest.mark.skipif(not (BIN / "register-python-argcomplete").exists(), reason="there is no argcomplete"),
]


def completed(line: str, **environment: str) -> list[str]:
    """Return the words by which bash would continue a command line."""
    found = subprocess.run(
        ["bash", "-c", COMPLETES, "bash", line],
        env={**os.environ, **environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stderr == ""
    return [word.strip() for word in found.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rudderpipe st", ["status"]),
        ("rudderpipe failed re", ["retry"]),
        ("rudderpipe status --prod", ["--producers"]),
        ("rudderpipe send --when-full ", ["drop", "block", "raise"]),
        ("rudderpipe send --gzip f", ["false"]),
    ],
)
def test_bash_completes_commands_options_and_words(line: str, words: list[str]) -> None:
    """As docs/commands.md says, one line in a shell's start file is all that this needs."""
    assert completed(line) == words


def test_bash_completes_the_pipes_of_this_host(processes: Processes) -> None:
    """A person who must drain a ring need not copy its name."""
    processes.explicit["autostart"] = False
    assert processes.client().track("u", "e")
    pipe = processes.settings.pipe_name

    assert completed(f"rudderpipe drain {pipe[:-1]}", **processes.environment) == [pipe]
    ring = location.own(processes.settings).stem
    assert completed(f"rudderpipe drain --ring {ring[:-2]}", **processes.environment) == [ring]
