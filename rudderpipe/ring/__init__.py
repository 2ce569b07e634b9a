"""The shared memory between an application's processes and the flusher."""
