"""Whether Redis lets us in: asked by a process of its own, for an application opens no socket, nor loads a client."""

from __future__ import annotations

import subprocess

import msgspec

from rudderpipe.errors import AnotherDataPlane, QueueUnavailable
from rudderpipe.process import spawn
from rudderpipe.settings import Settings

TIMEOUT_S = 20.0


def trouble(settings: Settings) -> QueueUnavailable | None:
    """Return what is wrong with Redis; None when it can be used. Takes as long as a Python takes to start."""
    payload = msgspec.json.encode(settings)
    try:
        child = spawn.start("rudderpipe.flusher", payload, "--check", output=subprocess.PIPE)
        try:
            text, _ = child.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            text = b"no answer in time"
    except Exception as error:  # noqa: BLE001  # gevent's Popen, too, refuses in some threads
        return QueueUnavailable(settings.redis_place, f"cannot be asked: {error}")
    # Its exit code says nothing, and is not to be had where the application ignores its children.
    lines = text.decode("utf-8", "replace").strip().splitlines() or ["no answer"]
    if lines[-1].startswith(spawn.OTHER_PLANE):
        owner = lines[-1].removeprefix(spawn.OTHER_PLANE)
        return AnotherDataPlane(settings.redis_place, settings.queue_name, owner)
    return None if lines[-1] == spawn.CHECKED else QueueUnavailable(settings.redis_place, lines[-1])
