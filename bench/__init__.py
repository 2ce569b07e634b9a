"""Benchmarks that measure candidates in turn in one run, and print medians, ratios and the machine."""
