"""Published metrics of real clips. Each is a ``torchmetrics.Metric`` over a set of clips, with a backend that measures one clip."""
