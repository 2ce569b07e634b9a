"""Several queues under every mishap: each event is in one queue once, and each user's events are delivered in order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_tests.queues_model import ALL, episode
from rudderpipe.testing.redis_server import RedisServer

EPISODES = 40
AT_MOST = 500
"""The number of episodes in which a missing rule must be found out."""


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.mark.parametrize("first", range(0, EPISODES, 20))
def test_no_event_is_lost_or_doubled_and_each_user_is_in_order(server: RedisServer, tmp_path: Path, first: int) -> None:
    """Flushers die between any two calls, answers are lost, calls come late, and the number of queues changes."""
    events = generations = 0
    for seed in range(first, first + 20):
        try:
            model = episode(server.client(), server.url, tmp_path, seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        events += sum(map(len, model.delivered.values()))
        generations += len(model.route.generations)
    assert events > 20 * 20
    assert generations > 20 * 2


@pytest.mark.parametrize("rule", sorted(ALL))
def test_each_rule_is_needed(server: RedisServer, tmp_path: Path, rule: str) -> None:
    """Without it an event is doubled, lost or out of order."""
    for seed in range(AT_MOST):
        try:
            episode(server.client(), server.url, tmp_path, seed, ALL - {rule})
        except AssertionError as error:
            print(f"without the rule {rule}: seed {seed}, {error}")  # so that the episode can be run again
            return
    pytest.fail(f"nothing goes wrong without the rule {rule}, in {AT_MOST} episodes")
