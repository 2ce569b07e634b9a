"""A secret in a file, such as a credential of systemd or a secret of Kubernetes; read again when the file changes.

No error and no log line contains any of the file's text.
"""

from __future__ import annotations

import os
import stat

from rudderpipe import log_text
from rudderpipe.errors import SettingsError

LIMIT_BYTES = 4096

logger = log_text.logger()


class SecretFile:
    """One file that holds one secret, on one line. ``setting`` is the setting that names it."""

    def __init__(self, setting: str, path: str) -> None:
        self._setting = setting
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._value = ""
        self._has_warned = False

    def value(self) -> str:
        """Return the secret, which costs one look at the file's state unless the file has changed.

        A file that cannot be read any more, or is wrong now, keeps its last secret, with one warning, because a file is
        often replaced in two steps. Raise ``SettingsError`` if there never was one.
        """
        try:
            found = os.stat(self._path)  # noqa: PTH116  # for each request and each commit
            seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if seen != self._seen:
                self._value, self._seen = self._read(found), seen
                self._has_warned = False
        except OSError as error:
            self._fail(f"cannot be read: {error.strerror}")
        except ValueError as error:
            self._fail(str(error))
        return self._value

    def _read(self, found: os.stat_result) -> str:
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is no file")
        if is_open_to_all(found):
            logger.warning("every user of this host can read the file of %s: chmod 400 it", self._setting)
        with open(self._path, "rb") as file:  # noqa: PTH123  # pathlib would slow every import down for this line alone
            return text_of(file.read(LIMIT_BYTES + 1))

    def _fail(self, reason: str) -> None:
        if not self._value:
            raise SettingsError(self._setting, reason)
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s %s; the secret that it held before stays in use", self._setting, reason)


def text_of(data: bytes) -> str:
    """Return a file's secret without the line break at its end. Raise ``ValueError``, without any of the text."""
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"is longer than {LIMIT_BYTES:,} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise ValueError("is empty")
    if not text.isprintable():
        raise ValueError("must hold one line of printable text")
    return text


def is_open_to_all(found: os.stat_result) -> bool:
    """Return whether every user may read a file."""
    return bool(found.st_mode & stat.S_IROTH)


_files: dict[tuple[str, str], SecretFile] = {}


def of(setting: str, path: str) -> SecretFile:
    """Return this process's one view of the file that a setting names."""
    found = _files.get((setting, path))
    if found is None:
        found = _files[setting, path] = SecretFile(setting, path)
    return found
