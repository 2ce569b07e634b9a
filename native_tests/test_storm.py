"""A short storm: whoever is killed or stopped, each accepted event is in Redis exactly once, and in order."""

from __future__ import annotations

from native_tests.storm import Storm
from native_tests.world import World
from rudderpipe.cli.redis_server import RedisServer

SEED, SECONDS = 1, 12.0


def test_a_storm_loses_nothing_and_leaves_nothing(world: World, redis_server: RedisServer) -> None:
    """Producers, flushers and Redis are killed and stopped at random: nothing is lost, doubled, reordered or left."""
    storm = Storm(world, redis_server, SEED, producers=4, pause_s=0.1)
    try:
        storm.blow(SECONDS)
        verdict = storm.calm()
    finally:
        storm.watch.end()

    assert verdict.problems == []
    assert verdict.accepted >= 500
    deaths = storm.crowd.deaths
    assert deaths["producer"] + deaths["forked producer"] > 5, deaths
    assert deaths["flusher"] > 0, deaths
