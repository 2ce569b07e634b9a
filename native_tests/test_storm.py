"""A storm in all modes together: each accepted event is delivered or failed with its reason, and the account agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_tests.storm import Storm
from rudderpipe.testing.redis_server import RedisServer

SEED, SECONDS = 1, 60.0


@pytest.mark.timeout(500)
def test_a_storm_loses_no_event_and_repeats_none_without_a_reason(directory: Path, redis_server: RedisServer) -> None:
    """Every kind of process is killed and stopped while the data plane fails in every way."""
    storm = Storm(directory, redis_server, SEED, hold_s=10.0)
    try:
        storm.blow(SECONDS)
        result = storm.calm()
    finally:
        storm.end()

    assert result.problems == []
    assert result.accepted >= 500
    assert result.delivered > result.failed > 0
    for kind in ("producer", "flusher", "sender", "redis"):
        assert storm.deaths[kind] > 0, storm.deaths
    assert len(result.kinds) > 6, result.kinds
