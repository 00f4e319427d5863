"""Data sets: ordinary webdataset tar shards, a byte-offset index beside each shard, and one index of the set."""
