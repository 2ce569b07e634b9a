"""Helpers for the tests of an application: captured events and a local data plane; see ``docs/testing.md``."""

from rudderpipe.testing.capture import CapturedEvents, capture
from rudderpipe.testing.plane import LocalDataPlane

__all__ = ["CapturedEvents", "LocalDataPlane", "capture"]
