"""Networks in plain torch, without trainers, files or devices."""
