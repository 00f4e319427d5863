"""Clips from runs: which weights, on which device, along which plan, into which folder."""
