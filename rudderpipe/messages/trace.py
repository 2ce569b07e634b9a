"""The ids of OpenTelemetry's current span, which ``trace_context`` adds to the context of each event."""

from __future__ import annotations

import sys

from rudderpipe import log_text
from rudderpipe.process.clock import Clock
from rudderpipe.process.handlers import let_through
from rudderpipe.process.log_limit import ThrottledLog

_log = ThrottledLog(log_text.logger(), Clock())


def ids() -> dict[str, str]:
    """Return ``traceId`` and ``spanId`` of the current span, in hexadecimal; an empty dict if there is no valid span.

    Nothing is imported, because a process that has not loaded OpenTelemetry has no span. An error of OpenTelemetry is
    logged, so that the event is accepted without the ids.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    try:
        span = trace.get_current_span().get_span_context()
        if not span.is_valid:
            return {}
        return {"traceId": format(span.trace_id, "032x"), "spanId": format(span.span_id, "016x")}
    except Exception as error:  # noqa: BLE001  # the application chooses OpenTelemetry's version and its context
        let_through(error)
        _log.warning("trace", "events have no trace and span ids: OpenTelemetry raises %s", type(error).__name__)
        return {}
