"""The Bull queue in Redis."""
