"""Runs: configuration chains, hand-over between stages, manifests, generation, parity, and the demo that ties them together."""
