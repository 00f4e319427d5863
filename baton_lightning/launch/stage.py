"""A stage of a chain, and its status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton_lightning import settings
from baton_lightning.runs import manifest
from baton_lightning.shards.format import CACHE, PLAN_CACHE, STATISTICS
from baton_lightning.shards.stored_clip import clip_of

PREDICTED = {"PlanEncoding": PLAN_CACHE, "FeatureStatistics": STATISTICS}
"""Module -> the file that ``predict`` writes last for it. For all other modules, this is the record of the cache."""


@dataclass(frozen=True)
class Stage:
    """A stage of a chain.

    Args:
        name: Name in the chain file.
        config: Experiment file.
        verb: ``fit`` or ``predict``.
        after: Stages that must be finished before this one starts.
        settings: Settings of the experiment, including overrides of the command line.
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
        """The file that the stage writes last; it exists once the stage is finished."""
        return self.caches[-1] if self.verb == "predict" else self.folder / manifest.NAME

    @property
    def caches(self) -> list[Path]:
        """The files that record what ``predict`` computed, one for each geometry, in the order in which they are written."""
        module = str((self.settings.get("model") or {}).get("class_path", "")).rpartition(".")[2]
        root, name = Path(str(self.settings["data"]["init_args"]["root"])), PREDICTED.get(module, CACHE)
        clip = self.settings.get("clip") or {}
        return [root / geometry / name for geometry in clip_of(clip).each] if clip.get("geometries") else [root / name]


@dataclass(frozen=True)
class Status:
    """Status of a stage.

    Args:
        state: waiting, ready, queued, running, interrupted, finished, stale, other settings or damaged.
        why: What differs or is missing.
        step: Last completed optimiser step.
        loss: Loss of that step.
        digest: Digest of the final weights.
        checkpoint: Name of the newest checkpoint.
        job: The process or job that runs the stage, or the job that ended without finishing it.
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
