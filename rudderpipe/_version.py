"""The name and version that travel with every event and request."""

LIBRARY = "rudderpipe"
VERSION = "0.1.0"
USER_AGENT = f"{LIBRARY}/{VERSION}"
