"""The process that takes events out of the ring."""
