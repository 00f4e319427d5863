"""The `run:` section of a configuration: the run folder and the interval between checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True)
class RunSpec:
    """The run folder ``<root>/<experiment>/<stage>/``, and the interval between checkpoints.

    Args:
        root: Folder of all runs.
        experiment: Name shared by the stages of one chain.
        stage: Name of this run within the experiment.
        checkpoint_every: Optimiser steps between checkpoints; 0 disables saving by steps.
        checkpoint_interval: Time between checkpoints, "hours:minutes:seconds", used if ``checkpoint_every`` is 0.
    """

    root: str = "runs"
    experiment: str = "demo"
    stage: str = "stage"
    checkpoint_every: int = 100
    checkpoint_interval: timedelta | None = None

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.experiment / self.stage
