"""Benchmarks of the library: parity with other code, resuming, start-up, data loading, scores and GPU performance."""
