"""The command ``rudderpipe``."""
