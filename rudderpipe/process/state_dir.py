"""The directory of dead letters, on a disk, because the memory of the runtime directory is empty after a reboot."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rudderpipe import log_text
from rudderpipe.errors import RingUnavailable
from rudderpipe.process import runtime_dir
from rudderpipe.settings import Settings

NAME = "rudderpipe"
logger = log_text.logger()
_warned: set[Path] = set()


def default() -> Path:
    """Return the path of this user's default state directory, whether it exists or not.

    It is relative if this user has no home directory.
    """
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():  # the specification has other paths ignored
        return named / NAME
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # pathlib raises for a user without a home
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / NAME
    if os.getuid() == 0:
        return Path("/var/lib") / NAME
    return home / ".local" / "state" / NAME


def ensure(settings: Settings) -> Path:
    """Return ``spool_dir`` or the default; make it with mode 0700, whatever the umask is.

    Return the runtime directory if that directory cannot be made or written, with one warning in direct mode. (With a
    queue, dead letters are damaged events alone.) Raises ``RingUnavailable`` if the runtime directory cannot be used
    either.
    """
    path = Path(settings.spool_dir) if settings.spool_dir else default()
    reason = _unusable(path)
    if reason is None:
        return path
    instead = runtime_dir.ensure(settings.runtime_dir)
    if settings.redis is None and path not in _warned:
        _warned.add(path)
        logger.warning(
            "dead letters are kept in the runtime_dir instead of on a disk path=%s error=%s", instead, reason
        )
    return instead


def _unusable(path: Path) -> str | None:
    if not path.is_absolute():
        return "this user has no home directory, set spool_dir"
    try:
        runtime_dir.ensure(str(path), "spool_dir")
    except RingUnavailable as error:
        return str(error)
    return None if os.access(path, os.R_OK | os.W_OK | os.X_OK) else f"spool_dir {path} cannot be written"
