"""The metrics of rudderpipe, for Prometheus and everything that reads its format.

An application exports them with ``text()`` in a view of its own, or with ``collector()`` in a registry that it has. The
counters are in shared memory and in Redis, so every worker of a host returns the same values.
"""

from rudderpipe.observe.metrics.exposition import Exposition, collector, text

__all__ = ["Exposition", "collector", "text"]
