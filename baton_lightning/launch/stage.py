"""A stage of a chain, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton_lightning import settings
from baton_lightning.runs import manifest
from baton_lightning.shards.format import CACHE, PLAN_CACHE, STATISTICS

PREDICTED = {"PlanEncoding": PLAN_CACHE, "FeatureStatistics": STATISTICS}
"""What ``predict`` of a module writes last; any other one writes the cache's record."""


@dataclass(frozen=True)
class Stage:
    """A stage of a chain.

    Args:
        name: What the chain calls it.
        config: Its experiment file.
        verb: fit or predict.
        after: Stages that must be finished before.
        settings: The experiment's, with the overrides of the command line.
    """

    name: str
    config: Path
    verb: str
    after: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        return settings.folder(self.settings)

    @property
    def record(self) -> Path:
        """The file that is written when the stage is finished, last of all."""
        if self.verb == "predict":
            module = str((self.settings.get("model") or {}).get("class_path", "")).rpartition(".")[2]
            return Path(str(self.settings["data"]["init_args"]["root"])) / PREDICTED.get(module, CACHE)
        return self.folder / manifest.NAME


@dataclass(frozen=True)
class Status:
    """How far a stage is.

    Args:
        state: waiting, ready, queued, running, interrupted, finished, stale, other settings or damaged.
        why: What differs, or is not there.
        step: Last optimiser step that was made.
        loss: Its loss.
        digest: Digest of the weights.
        checkpoint: Newest checkpoint.
        job: The process or job that works on it, or the job that ended without finishing it.
    """

    state: str
    why: str = ""
    step: int | None = None
    loss: float | None = None
    digest: str = ""
    checkpoint: str = ""
    job: str = ""

    def __str__(self) -> str:
        return f"interrupted at step {'?' if self.step is None else self.step}" if self.state == "interrupted" else self.state
