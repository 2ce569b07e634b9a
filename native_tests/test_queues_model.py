"""Several queues under every mishap: each event is in one queue once, and each user's events are delivered in order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from native_tests.queues_model import ALL, episode
from rudderpipe.flusher import spilling
from rudderpipe.flusher.queue_cursor import QueueCursor
from rudderpipe.flusher.spill import Spill
from rudderpipe.flusher.spilling import Spilling
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
    events = generations = appends = 0
    for seed in range(first, first + 20):
        try:
            model = episode(server.client(), server.url, tmp_path, seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        events += sum(map(len, model.delivered.values()))
        generations += len(model.route.generations)
        appends += sum(spill.appends for host in model.hosts for spill in host.spills)
    assert events > 20 * 20
    assert generations > 20 * 2
    assert appends > 20


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


MECHANISMS: dict[str, tuple[Any, str, Any]] = {
    "a fence before the spill is read": (QueueCursor, "is_unsure", property(lambda _: False, lambda *_: None)),
    "offsets are kept": (Spilling, "needs", lambda *_: False),
    "the spill goes before the ring": (
        Spilling,
        "is_ahead",
        lambda self, cursor: (
            self._spill is not None and self._spill.is_behind(cursor.spill_at) and cursor.done % 2 == 0
        ),
    ),
    "what is in the spill is not read in the ring": (Spilling, "reached", property(lambda _: {})),
    "the place in the ring": (spilling, "is_in", lambda known, places: _is_below(known, places[1])),
    "the place in the spill": (spilling, "is_in", lambda known, places: _is_below(known, places[0])),
    "a segment's number is used once": (Spill, "last_number", property(lambda self: len(self._segments))),
}
"""What keeps the spill exactly-once, and what to put into its place."""


def _is_below(known: dict[int, int], place: tuple[int, int]) -> bool:
    return place[1] < known.get(place[0], 0)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_each_mechanism_of_the_spill_is_needed(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    """Without it an event is doubled, lost or out of order, or none leaves any more."""
    owner, name, broken = MECHANISMS[mechanism]
    monkeypatch.setattr(owner, name, broken, raising=False)
    if mechanism == "a segment's number is used once":
        begin = Spill._begin  # noqa: SLF001  # the mechanism that is broken here
        monkeypatch.setattr(Spill, "_begin", lambda self, _: begin(self, self.last_number + 1))
    for seed in range(AT_MOST):
        try:
            episode(server.client(), server.url, tmp_path, seed)
        except AssertionError as error:
            print(f"without {mechanism}: seed {seed}, {error}")
            return
    pytest.fail(f"nothing goes wrong without this: {mechanism}, in {AT_MOST} episodes")
