"""Metrics of real clips: each a ``torchmetrics.Metric`` over a set, each behind a backend that says what it needs."""
