"""A storm in all modes together: each accepted event is delivered or failed with its reason, and the account agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_tests.storm import Storm
from rudderpipe.testing.redis_server import RedisServer

SEED, SECONDS = 1, 120.0


@pytest.mark.timeout(500)
def test_a_storm_loses_nothing_and_repeats_nothing_without_a_reason(directory: Path, redis_server: RedisServer) -> None:
    """Every kind of process is killed and stopped while the data plane fails in every way."""
    storm = Storm(directory, redis_server, SEED, hold_s=10.0)
    try:
        storm.blow(SECONDS)
        verdict = storm.calm()
    finally:
        storm.end()

    assert verdict.problems == []
    assert verdict.accepted >= 500
    assert verdict.delivered > verdict.failed > 0
    for kind in ("producer", "flusher", "sender", "redis"):
        assert storm.deaths[kind] > 0, storm.deaths
    assert len(verdict.kinds) > 6, verdict.kinds
