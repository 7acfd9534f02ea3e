"""Benchmarks: each prints machine, commit, load and percentiles, and writes the same as JSON."""
