"""Data sets: ordinary webdataset tar shards, a byte-offset index beside each, and one index of the whole."""
