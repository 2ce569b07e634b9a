"""The state of a manager that its admin address looks at, and the decision whether it is alive and ready."""

from __future__ import annotations

from typing import Any

import msgspec

from rudderpipe.service.health import response_of
from rudderpipe.service.http import Response

LIST_FRESH_S = 10.0
"""How long a look at the list of managers counts."""


class ManagerState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a manager at the end of a cycle. All moments are of one monotonic clock."""

    worked_s: float
    """When the cycle was."""
    listed_s: float | None = None
    """When the list of managers was read last; None before the first time."""
    managers: int = 0
    """How many managers are in the list."""
    queues: int = 0
    """How many queues have a sender here, or are about to have one."""
    idle: tuple[str, ...] = ()
    """The queues whose sender does not run, by prefix."""
    lost: tuple[str, ...] = ()
    """The queues that could not be used for long, by prefix."""
    closed: tuple[str, ...] = ()
    """The queues that wait for the queues before them, by prefix."""
    stopping: bool = False


def healthz(state: ManagerState, now_s: float, stall_timeout_s: float) -> Response:
    """Return the liveness response: 503 exactly when no cycle has ended for ``stall_timeout_s``."""
    worked_ago_s = now_s - state.worked_s
    reason = f"no cycle has ended for {worked_ago_s:.0f} s" if worked_ago_s >= stall_timeout_s else ""
    return response_of("stalled" if reason else "alive", reason, _shown(state, now_s))


def readyz(state: ManagerState, now_s: float) -> Response:
    """Return the readiness response: 200 while this manager can work on all its queues. It may have none."""
    reason = _not_ready(state, now_s)
    return response_of("not ready" if reason else "ready", reason, _shown(state, now_s))


def _not_ready(state: ManagerState, now_s: float) -> str:
    if state.stopping:
        return "stopping"
    if state.listed_s is None:
        return "the list of managers has not been read yet"
    if now_s - state.listed_s > LIST_FRESH_S:
        return f"the list of managers has not been read for {now_s - state.listed_s:.0f} s"
    if state.lost:
        return f"queues cannot be used: {', '.join(state.lost)}"
    if state.idle:
        return f"senders do not run: {', '.join(state.idle)}"
    return ""


def _shown(state: ManagerState, now_s: float) -> dict[str, Any]:
    return {
        "queues": state.queues,
        "closed": state.closed,
        "managers": state.managers,
        "stopping": state.stopping,
        "worked_ago_s": round(now_s - state.worked_s, 3),
        "listed_ago_s": state.listed_s and round(now_s - state.listed_s, 3),
    }
