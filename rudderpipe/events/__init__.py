"""The events of a batch, as they travel from the ring to the data plane."""
