"""Whether Redis lets us in: asked by a process of its own, for an application opens no socket, nor loads a client."""

from __future__ import annotations

import subprocess

import msgspec

from rudderpipe import program
from rudderpipe.errors import QueueUnavailable
from rudderpipe.settings import Settings

TIMEOUT_S = 20.0


def trouble(settings: Settings) -> QueueUnavailable | None:
    """What is wrong with Redis; None when it can be used. Takes as long as a Python takes to start."""
    payload = msgspec.json.encode(settings)
    child = program.start("rudderpipe.flusher", payload, "--check", output=subprocess.PIPE)
    try:
        child.stdin = None  # closed by now; communicate would use it
        _, text = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        text = b"no answer in time"
    if child.returncode == 0:
        return None
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return QueueUnavailable(settings.redis_place, lines[-1] if lines else f"exit code {child.returncode}")
