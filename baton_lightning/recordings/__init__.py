"""Decoding of media files from any source, shared by data sets, scores and metrics."""
