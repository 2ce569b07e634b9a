"""The directory of lock files and logs: its owner's alone, beside the shared memory."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from rudderpipe import log_text
from rudderpipe.errors import RingUnavailable
from rudderpipe.settings import Settings

HOME = Path("/dev/shm" if sys.platform == "linux" else "/tmp")  # noqa: S108  # what is made there is 0700, and checked
"""The folder of the default runtime directory."""
_OWN_SUFFIXES = (
    *(".lock", ".flusher", ".start", ".log", ".log.1", ".guard"),
    *(".ndjson", ".ring", ".fifo", ".route", ".failed", ".spool", ".spill", ".checkpoint"),
)
"""How the names of the files end that rudderpipe itself puts into a runtime directory."""

logger = log_text.logger()
_warned: set[Path] = set()


def file_limit() -> int:
    """Return the size in bytes of the largest file that this process may make (``ulimit -f``).

    A write past the limit sends SIGXFSZ, which ends a process that has not changed its action, as under uWSGI.
    """
    import resource  # here, because Windows has no such module, and an application there may load this one

    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def default() -> Path:
    """Return the path of this user's default runtime directory, whether it exists or not."""
    return HOME / f"rudderpipe-{os.getuid()}"


def ensure(given: str | None, setting: str = "runtime_dir") -> Path:
    """Return the directory of lock files and logs; make it with mode 0700, whatever the umask is.

    Raises ``RingUnavailable`` unless it is a directory of this user that no other user can write. A directory of this
    user with another mode is set to 0700, unless it holds files of other programs, which other users may share.
    Messages name ``setting``.

    By default it stands beside the segments, so that the same processes see both. A service with a private ``/tmp``
    would otherwise lock another file than its neighbour, and corrupt the ring that they share. No cleaner of ``/tmp``
    removes the directory there.
    """
    path = Path(given) if given else default()
    try:
        _make(path, parents=given is not None)
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and mode != 0o700 and _is_own(path):
            path.chmod(0o700)
            if mode & 0o077:
                _warn_once(path, f"{setting} {path} had the mode {mode:04o}; it is 0700 now")
            return path
    except (OSError, ValueError) as error:  # ValueError: the path holds NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RingUnavailable(str(path), f"{setting} cannot be made: {reason}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or mode & 0o022:
        raise RingUnavailable(str(path), f"{setting} must be a directory that only its owner, this user, can write")
    if mode & 0o700 != 0o700:
        raise RingUnavailable(str(path), f"{setting} has the mode {mode:04o}: its owner must be able to write there")
    if mode & 0o077:
        _warn_once(path, f"{setting} {path} is open to others (mode {mode:04o}): give rudderpipe one of its own")
    return path


def _make(path: Path, *, parents: bool) -> None:
    """Make the directory with mode 0700; a umask could clear bits that the owner needs, or leave some for others."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        if not parents or path.parent == path:
            raise
        _make(path.parent, parents=True)
        _make(path, parents=False)
        return
    path.chmod(0o700)


def _is_own(path: Path) -> bool:
    """Return True if it holds rudderpipe's files alone; a new mode would cut others off from their readers."""
    if path.stat().st_mode & stat.S_ISVTX:
        return False
    try:
        return all(name.endswith(_OWN_SUFFIXES) for name in os.listdir(path))  # noqa: PTH208  # names are all it needs
    except PermissionError:  # its owner cannot read it, so no other program shares it
        return True


def _warn_once(path: Path, text: str) -> None:
    if path not in _warned:
        _warned.add(path)
        logger.warning("%s", text)


def private(path: str, flags: int) -> int:
    """Open a file that only its owner can read and write; an ``opener``. Raises ``OSError``."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def sync_directory(path: Path) -> None:
    """Store the names in a directory durably. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def log_file(settings: Settings) -> Path:
    """Return the path of the log of a pipe's autostarted processes."""
    return ensure(settings.runtime_dir) / f"{settings.pipe_name}.log"


def existing_log(settings: Settings) -> Path | None:
    """Return the path of the log of a pipe's autostarted processes, or None if there is none. Nothing is made."""
    path = (Path(settings.runtime_dir) if settings.runtime_dir else default()) / f"{settings.pipe_name}.log"
    return path if path.exists() else None


def open_log(path: str | Path, flags: int = os.O_WRONLY | os.O_CREAT | os.O_APPEND) -> int:
    """Open a log that only its owner can read and write, whatever the umask is. Raises ``OSError``."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if stat.S_IMODE(os.fstat(fd).st_mode) != 0o600:
        os.fchmod(fd, 0o600)
    return fd
