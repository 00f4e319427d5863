"""Runs: configuration chains, hand-over between stages, manifests, and the demo that ties them together."""
