"""What Linux shows of processes, mounts and the kernel's settings. Elsewhere, and where it is hidden, nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rudderpipe.observe.doctor.examination import Skipped

PROC = Path("/proc")
SYS = Path("/sys")
TOOL_S = 2.0
"""How long another program may take."""


def text(path: Path) -> str:
    """Return the text of a file; empty where there is none, and where it is hidden."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def command(pid: int) -> list[str]:
    """Return the arguments of a process, its program first."""
    return [each for each in text(PROC / str(pid) / "cmdline").split("\0") if each]


def environment(pid: int) -> dict[str, str]:
    """Return the variables that a process was started with."""
    found = (entry.partition("=") for entry in text(PROC / str(pid) / "environ").split("\0"))
    return {name: value for name, sign, value in found if sign}


def program(pid: int) -> str:
    """Return the path of a process's program; it ends with ``(deleted)`` once that file was removed or replaced."""
    try:
        return str((PROC / str(pid) / "exe").readlink())
    except OSError:
        return ""


def open_files(pid: int) -> list[Path]:
    """Return the paths of the files that a process has open."""
    try:
        return [each.readlink() for each in (PROC / str(pid) / "fd").iterdir()]
    except OSError:  # the process or one of its files is gone, or it is another user's
        return []


def standard_error(pid: int) -> str:
    """Return where a process writes its standard error: a file, or the journal or pipe behind a socket; or nothing."""
    try:
        target = str((PROC / str(pid) / "fd" / "2").readlink())
    except OSError:
        return ""
    name = unit(pid)
    return f"{target} (journalctl -u {name})" if name and target.startswith("socket:") else target


def unit(pid: int) -> str:
    """Return the systemd service that a process belongs to; empty for none."""
    found = re.findall(r"[^/\n]+\.service", text(PROC / str(pid) / "cgroup"))
    return found[-1] if found else ""


def kind_of_mount(path: Path) -> str:
    """Return the kind of the file system that holds a path, such as ``tmpfs`` or ``nfs4``."""
    best, kind = -1, ""
    real = Path(os.path.realpath(path))
    for line in text(PROC / "self" / "mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        where = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4]))
        if (real == where or where in real.parents) and len(where.parts) >= best:
            best, kind = len(where.parts), rest.split()[0]
    return kind


def output(*words: str) -> str:
    """Return what another program prints. Raise ``Skipped`` if it is not there, fails, or takes longer than 2 s."""
    found = shutil.which(words[0])
    if found is None:
        raise Skipped(f"there is no {words[0]} here")
    try:
        done = subprocess.run(  # noqa: S603  # found above
            [found, *words[1:]], capture_output=True, text=True, timeout=TOOL_S, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        raise Skipped(f"{words[0]} cannot be asked here") from None
    return done.stdout


def value_of(lines: Sequence[str], name: str) -> str:
    """Return the last value of ``name=value`` among lines; empty if there is none."""
    values = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == name]
    return values[-1] if values else ""
