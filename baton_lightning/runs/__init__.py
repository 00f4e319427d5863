"""Run folders: weights, manifest, checkpoints, ledger, lock and digests."""
