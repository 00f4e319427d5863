"""Scores of clips of the benchmark world, and HTML pages with them."""
