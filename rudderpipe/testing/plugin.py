"""The pytest plugin, which installing rudderpipe brings along: fixtures for an application's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rudderpipe.testing import CapturedEvents, LocalDataPlane


@pytest.fixture
def captured_events() -> Iterator[CapturedEvents]:
    """Events of this test, of all of the application's clients; nothing is started, nothing is sent."""
    from rudderpipe.testing import capture

    with capture() as captured:
        yield captured


@pytest.fixture
def assert_tracked(captured_events: CapturedEvents) -> Callable[..., dict[str, Any]]:
    """``assert_tracked("Item Viewed", user_id="123456", properties={"price": 19.95})`` of what is captured."""
    return captured_events.assert_tracked


@pytest.fixture
def rudderpipe_data_plane() -> Iterator[LocalDataPlane]:
    """A local data plane for tests that go all the way; ``fail(503, times=2)``, ``delay(100)``, ``wait_for(5)``."""
    from rudderpipe.testing import LocalDataPlane

    with LocalDataPlane() as plane:
        yield plane
