"""The transports, which take a client's events: into the ring, directly to the data plane, or to no destination."""
