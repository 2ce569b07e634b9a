"""The command ``rudderpipe web``, which serves the page of a pipe until it is stopped."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rudderpipe.errors import SettingsError
from rudderpipe.log_text import logger
from rudderpipe.observe.web.application import Application
from rudderpipe.observe.web.door import OwnDoor, is_loopback
from rudderpipe.observe.web.sessions import Sessions
from rudderpipe.process.clock import Clock
from rudderpipe.service import log_format
from rudderpipe.service.http import parse_address, text_of
from rudderpipe.service.signals import EXIT_OK, StopFlag
from rudderpipe.settings import Settings, secret_file

TOKEN_LETTERS = 32


class Given(NamedTuple):
    """The options of the command."""

    listen: str
    token_file: str | None
    hosts: Sequence[str]
    behind_https: bool
    shows_events: bool


def web(settings: Settings, given: Given) -> int:
    """Serve the page until SIGTERM or SIGINT. Return an exit code. Raise ``SettingsError`` and ``ExtraMissing``."""
    from rudderpipe.observe.web.server import Server  # imported here, because it raises without the extra

    host, port = parse_address(given.listen, "--listen")
    is_local = (host == "localhost" or is_loopback(host)) and not given.hosts and not given.behind_https
    if given.token_file is None and not is_local:
        said = "is needed with --allow-host, --behind-https, and for any address except loopback"
        raise SettingsError("--token-file", said)
    sessions = Sessions(token_of(given.token_file), Clock()) if given.token_file is not None else None
    # Every user of this host can reach loopback, and may look. Beyond loopback, everything needs the token.
    door = OwnDoor(sessions, (*given.hosts, host), "read" if is_local else "none", behind_https=given.behind_https)
    stop = StopFlag()
    stop.install()  # before threads start, because they inherit which signals are blocked
    _log(settings)
    application = Application(settings, door, shows_events=given.shows_events)
    server = Server(application, host, port, behind_https=given.behind_https)
    stop.wakes(server.stop)
    if stop.raised:
        server.stop()
    print(f"page of pipe {settings.pipe_name}: http://{text_of(*server.address)}/", flush=True)
    server.run()
    return EXIT_OK


def token_of(path: str) -> str:
    """Return the token in a file that only its owner can read. Raise ``SettingsError``, without any of the text."""
    try:
        with Path(path).open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(secret_file.LIMIT_BYTES + 1) if stat.S_ISREG(found.st_mode) else None
    except OSError as error:
        raise SettingsError("--token-file", f"cannot be read: {error.strerror}") from None
    if data is None:
        raise SettingsError("--token-file", "is no file")
    if found.st_mode & 0o077 and not _is_credential(path):
        raise SettingsError("--token-file", "can be read by other users: chmod 600 it")
    try:
        token = secret_file.text_of(data)
    except ValueError as error:
        raise SettingsError("--token-file", str(error)) from None
    if len(token) < TOKEN_LETTERS:
        said = f"must hold at least {TOKEN_LETTERS} characters, such as those of `openssl rand -hex 32`"
        raise SettingsError("--token-file", said)
    return token


def _is_credential(path: str) -> bool:
    """Return True for a credential of systemd, whose mode shows the access list that gives it to this user."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and Path(path).resolve().parent == Path(directory or "/").resolve()


def _log(settings: Settings) -> None:
    """Log what visitors do to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(log_format.of(settings, "web"))
    ours = logger()
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
