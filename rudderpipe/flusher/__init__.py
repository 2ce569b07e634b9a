"""The flusher: the process that moves events from the ring to the queue, or in direct mode to the data plane."""
