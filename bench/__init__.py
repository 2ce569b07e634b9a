"""Benchmarks: side by side in one run, medians and ratios, and the machine they ran on."""
