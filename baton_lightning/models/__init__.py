"""Networks, in plain torch: they know tensors and geometry, nothing of trainers, files or devices."""
