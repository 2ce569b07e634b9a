"""Where a client's events go: into the ring, straight to the data plane, or nowhere."""
