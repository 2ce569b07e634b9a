"""What every long-running program of ours has: its loop, signals, settings, health and service manager."""
