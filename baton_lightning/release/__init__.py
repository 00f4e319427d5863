"""Weights in and out: released checkpoints as parents, runs as folders that anybody can load."""
