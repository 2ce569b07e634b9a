"""The check that Redis can be used, in a separate process, because an application opens no socket to Redis."""

from __future__ import annotations

import re
import subprocess

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import AnotherDataPlane, QueueUnavailable
from rudderpipe.process import spawn
from rudderpipe.settings import Settings

TIMEOUT_S = 20.0
logger = log_text.logger()


def trouble(settings: Settings) -> QueueUnavailable | None:
    """Return the error if the queue cannot be used, else None; log it, unless ``strict`` has it raised.

    Takes as long as a Python process needs to start.
    """
    error = _check(settings)
    if error is not None and not settings.strict:
        logger.warning("the queue cannot be used now, events wait in the ring until it can: %s", error)
    return error


def _check(settings: Settings) -> QueueUnavailable | None:
    payload = msgspec.json.encode(settings)
    try:
        child = spawn.start("rudderpipe.flusher", payload, "--check", output=subprocess.PIPE)
        try:
            text, _ = child.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            text = b"the check did not end in time"
    except Exception as error:  # noqa: BLE001  # gevent's Popen raises errors of its own in some threads
        return QueueUnavailable(settings.redis_place, f"the check failed: {error}")
    # The output decides, because the exit code cannot be read where the application ignores SIGCHLD.
    lines = text.decode("utf-8", "replace").strip().splitlines() or ["the check printed nothing"]
    if lines[-1].startswith(spawn.OTHER_PLANE):
        owner = lines[-1].removeprefix(spawn.OTHER_PLANE)
        return AnotherDataPlane(settings.redis_place, settings.queue_name, owner)
    return None if lines[-1] == spawn.CHECKED else _unavailable(lines[-1], settings)


def _unavailable(text: str, settings: Settings) -> QueueUnavailable:
    """Return the error that the check has printed, with the place of its server; another text is the reason of one."""
    printed = re.fullmatch("redis at (.+?): (.+)", text)
    return QueueUnavailable(printed[1], printed[2]) if printed else QueueUnavailable(settings.redis_place, text)
