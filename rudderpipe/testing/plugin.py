"""The pytest plugin of rudderpipe, with fixtures for the tests of an application."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rudderpipe.testing import CapturedEvents, LocalDataPlane


@pytest.fixture
def captured_events() -> Iterator[CapturedEvents]:
    """Capture this test's events of all clients in the process. Nothing is started, and nothing is sent."""
    from rudderpipe.testing import capture

    with capture() as captured:
        yield captured


@pytest.fixture
def assert_tracked(captured_events: CapturedEvents) -> Callable[..., dict[str, Any]]:
    """``assert_tracked("Item Viewed", user_id="123456", properties={"price": 19.95})`` for captured events."""
    return captured_events.assert_tracked


@pytest.fixture
def rudderpipe_data_plane() -> Iterator[LocalDataPlane]:
    """Run a local data plane, which can ``fail(503, times=2)``, ``delay(100)`` and ``wait_for(5)``."""
    from rudderpipe.testing import LocalDataPlane

    with LocalDataPlane() as plane:
        yield plane
