"""The ``rudderpipe`` command."""
