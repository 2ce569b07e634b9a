"""A storm on two hosts while the number of queues changes: nothing is lost or doubled, and each user is in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_tests import separate_host
from native_tests.queues_storm import QueuesStorm

SEED, SECONDS = 1, 15.0
SLOW = 6
"""How often the storm goes on for half of this time, because a busy machine has changed the number too seldom."""


@pytest.mark.skipif(bool(separate_host.why_not()), reason=separate_host.why_not())
@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", ["list", "cluster"])
def test_events_stay_whole_and_in_order_while_the_number_of_queues_changes(directory: Path, form: str) -> None:
    """Everything is killed and stopped, and in the cluster replicas take over."""
    print(f"seed {SEED}; python -m bench.storm --queues {form} --seed {SEED} runs this storm for longer")
    storm = QueuesStorm(directory, SEED, form, pause_s=0.2, hold_s=5.0)
    try:
        storm.blow(SECONDS)
        for _ in range(SLOW):
            if storm.statuses["changes begun"] < 3:
                storm.blow(SECONDS / 2)
        result = storm.calm()
    finally:
        storm.end()

    assert result.problems == []
    assert result.accepted >= 500
    assert result.delivered >= result.accepted
    assert storm.statuses["generations"] >= 3, storm.statuses
    assert storm.deaths["redis"] + storm.acts["redis stopped"] > 0, storm.deaths
    assert sum(storm.deaths[kind] for kind in ("flusher", "manager", "sender", "scale")) >= 4, storm.deaths
