"""One event, from a call's arguments to JSON."""
