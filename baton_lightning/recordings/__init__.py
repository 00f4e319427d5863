"""Recordings of any kind, read in one way: by data sets, scores and metrics alike."""
