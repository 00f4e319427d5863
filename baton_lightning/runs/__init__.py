"""Runs: configuration chains, hand-over between stages, manifests, generation, and the demo that ties them together."""
