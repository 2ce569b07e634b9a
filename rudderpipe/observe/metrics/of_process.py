"""The metrics of this process, with the names that Prometheus's own libraries give them."""

from __future__ import annotations

import psutil

from rudderpipe.observe.metrics.values import Values


def of_process() -> Values:
    """Return the metrics of this process."""
    found, me = Values(), psutil.Process()
    with me.oneshot():
        times = me.cpu_times()
        found.put("process_cpu_seconds_total", times.user + times.system)
        found.put("process_resident_memory_bytes", me.memory_info().rss)
        found.put("process_start_time_seconds", me.create_time())
    found.put("process_open_fds", me.num_fds())
    return found
