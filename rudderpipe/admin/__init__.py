"""What a running process tells those who operate it, over HTTP."""
