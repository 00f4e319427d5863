"""Where a run lives, and how often it saves: the `run:` section."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True)
class RunSpec:
    """Where a run lives: ``<root>/<experiment>/<stage>/``.

    Args:
        root: Folder of all runs.
        experiment: Name shared by the stages of one chain.
        stage: Name of this run within the experiment.
        checkpoint_every: Optimiser steps between checkpoints; 0 counts no steps.
        checkpoint_interval: Time between checkpoints, "hours:minutes:seconds", where no steps are counted.
    """

    root: str = "runs"
    experiment: str = "demo"
    stage: str = "stage"
    checkpoint_every: int = 100
    checkpoint_interval: timedelta | None = None

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.experiment / self.stage
