"""The sender: the process that delivers the jobs in the queue to the data plane."""
