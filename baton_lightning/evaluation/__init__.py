"""Scores of clips of the benchmark world, and pages that show them."""
