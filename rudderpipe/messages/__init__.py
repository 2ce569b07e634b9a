"""The way of one event from a call's arguments to JSON."""
