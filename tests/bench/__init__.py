"""Benchmarks: ratios of alternatives that are timed in turns within one run."""
