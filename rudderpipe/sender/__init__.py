"""The process that delivers what is in the queue."""
