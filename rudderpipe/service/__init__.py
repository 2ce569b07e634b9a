"""The parts that the flusher and the sender share: loop, signals, command line, health and service manager."""
