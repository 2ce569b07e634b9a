"""The common parts of the flusher's and the sender's command lines: arguments, settings, logging."""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

import msgspec

from rudderpipe import log_text
from rudderpipe import settings as settings_module
from rudderpipe.errors import RingUnavailable, SettingsError
from rudderpipe.process import runtime_dir
from rudderpipe.service import log_format
from rudderpipe.service.arguments import Parser, add_option
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_STOPPED_NOW, EXIT_UNAVAILABLE, EXIT_USAGE, StopFlag
from rudderpipe.settings import LOG_LEVELS, Settings

LOG_BYTES = 1 << 20
RECURSION_LIMIT = 10_000


def parser(program: str, purpose: str) -> Parser:
    """Return a parser with the arguments that the flusher and the sender share."""
    made = Parser(
        prog=f"python -m rudderpipe.{program}",
        description=f"{purpose} Settings come from RUDDERPIPE_* variables and a file, secrets never from arguments.",
    )
    add_option(made, "--config", does="TOML file of settings", default="that of RUDDERPIPE_CONFIG", metavar="FILE")
    add_option(made, "--stdin", does="read settings as JSON from standard input (for autostart)", action="store_true")
    add_option(
        made, "--log", does="log to this file, at most 2 MiB", default="standard error", type=Path, metavar="FILE"
    )
    add_option(made, "--verbose", does="also log what only a developer needs", action="store_true")
    form = "text, or json with the same facts as fields"
    add_option(made, "--log-format", does=form, default="that of the settings", type=_log_format, metavar="FORM")
    return made


def _log_format(text: str) -> str:
    """Return the name of a form. Raise ``ArgumentTypeError`` for another text."""
    if text not in ("text", "json"):
        raise argparse.ArgumentTypeError("must be text or json")
    return text


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings. An autostarted process reads one line of JSON. Raises ``SettingsError``."""
    if arguments.stdin:
        try:
            return settings_module.from_json(sys.stdin.buffer.readline())
        except msgspec.DecodeError as error:  # the process that started this one was killed while it wrote
            raise SettingsError("--stdin", f"holds no settings: {error}") from None
    return settings_module.load({"log_format": arguments.log_format}, config=arguments.config)


def warn_of_ignored(settings: Settings) -> None:
    """Log, once in a process, each setting that has no effect."""
    for line in settings.ignored:
        log_text.logger().warning("%s", line)


def guarded(program: str, main: Callable[[], int]) -> int:
    """Run a program. Return its exit code, or log an error that it raises and return that error's exit code."""
    occupy_standard_descriptors()
    # An application may encode nested values at any depth of its stack, and they must be readable here.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
    try:
        return main()
    except SettingsError as error:
        print(log_text.lines(f"rudderpipe.{program}: {error}"), file=sys.stderr)  # noqa: T201  # before there is a log
        return EXIT_USAGE
    except RingUnavailable as error:
        log_text.logger(f"rudderpipe.{program}").error("%s", error)
        return EXIT_UNAVAILABLE
    except Exception:  # noqa: BLE001  # any error must be in the log
        said = "ended by an unexpected error, accepted events stay in the ring or in redis"
        log_text.logger(f"rudderpipe.{program}").exception(said)
        return EXIT_FAILED


def occupy_standard_descriptors() -> None:
    """Open the closed standard descriptors, because a connection could get the number of standard error."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is ``fd``


def stop_flag(arguments: argparse.Namespace, *, hears_once: bool = False) -> StopFlag:
    """Return the stop flag of a program. An autostarted one exits with 0 even when it ends at once."""
    return StopFlag(exits_with=EXIT_OK if arguments.stdin else EXIT_STOPPED_NOW, hears_once=hears_once)


def detach() -> None:
    """Go on in a forked child and end this process. Call it after the settings are read."""
    if os.fork():
        os._exit(0)


class OwnLog(logging.handlers.RotatingFileHandler):
    """A log file that only its owner can read, also after a rotation."""

    def _open(self) -> TextIOWrapper:
        return TextIOWrapper(os.fdopen(runtime_dir.open_log(self.baseFilename), "ab"), encoding="utf-8")

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802  # the name in the standard library
        """Return whether the file is full. Another process that writes to it may have rotated it already."""
        if self.stream is not None and not _is_at(self.baseFilename, self.stream.fileno()):
            self.stream.close()
            self.stream = self._open()
        return bool(super().shouldRollover(record))


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))  # noqa: PTH116  # as the standard library
    except OSError:
        return False


def _own_log(path: Path) -> OwnLog:
    try:
        return OwnLog(path, maxBytes=LOG_BYTES, backupCount=1)
    except OSError as error:
        raise SettingsError("--log", f"cannot be written: {error.strerror}") from None


def log_to(arguments: argparse.Namespace, settings: Settings, component: str, *, queue: str = "") -> logging.Logger:
    """Set up logging and return the logger. Only for rudderpipe's own programs. ``queue`` is in each entry as text."""
    handler: logging.Handler = logging.StreamHandler()
    if arguments.log:
        handler = _own_log(arguments.log)
    handler.setFormatter(log_format.of(settings, component, queue))
    logger = log_text.logger()
    logger.addHandler(handler)
    usual = logging.DEBUG if arguments.verbose else logging.INFO
    logger.setLevel(LOG_LEVELS[settings.log_level] if settings.log_level else usual)
    return logger
