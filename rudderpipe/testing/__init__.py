"""For an application's own tests: its events captured, and a data plane to send them to; see ``docs/testing.md``."""

from rudderpipe.testing.capture import CapturedEvents, capture
from rudderpipe.testing.plane import LocalDataPlane

__all__ = ["CapturedEvents", "LocalDataPlane", "capture"]
