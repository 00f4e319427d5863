"""Caching of planned tokens of a frozen planner, for all epochs of stage 3 (a `predict` run)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.identity import describe
from baton_lightning.models.planner import VAPlanner
from baton_lightning.runs import manifest
from baton_lightning.shards.format import PLANS
from baton_lightning.stages.cached_plan import planner_of, planner_settings
from baton_lightning.stages.plan_sources import plan_one_by_one


class PlanEncoding(LightningModule):
    """Runs a finished run's planner over the prompts of clips, in its own types, independent of the trainer's precision.

    Args:
        clip: Geometry of the clips.
        planner: Factory of the planner.
        parents: ``{planner: RUN}``, the run of the planner's weights.
        dtype: Type of the stored tokens; with float32, training is bit-identical to training with the planner.
        seed: Unused; part of every stage's interface.

    Raises:
        ValueError: If ``parents`` has other roles than ``planner``.
    """

    kinds = (PLANS,)
    reads = ()

    def __init__(
        self,
        clip: ClipSpec,
        planner: Callable[[ClipSpec], VAPlanner],
        parents: dict[str, str],
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if set(parents) != {"planner"}:
            raise ValueError(f"model.init_args.parents must be {{planner: RUN}}, the run of a trained planner, got {parents}")
        self.clip, self.cache_dtype, self.make_planner, self.run = clip, getattr(torch, dtype), planner, Path(parents["planner"])

    def configure_model(self) -> None:
        """Builds and loads the planner at the first call."""
        if not hasattr(self, "planner"):
            self.planner = planner_of(self.run, self.make_planner, self.clip)

    # ---- what made the cache
    @cached_property
    def planned_by(self) -> dict[str, Any]:
        """Description of the planner."""
        digest = manifest.read(self.run)["weights_sha256"]
        return {**describe(self.planner), "weights_sha256": digest, "outline": planner_settings(self.planner)}

    def record(self, clip: ClipSpec) -> dict[str, Any]:
        """Geometry, type, and description of the planner."""
        return {"clip": clip.to_dict(), "dtype": str(self.cache_dtype).removeprefix("torch."), "planner": self.planned_by}

    def recipe(self, clip: ClipSpec) -> str:
        """Digest of geometry, type and planner, which determine the tokens of a prompt. Prompts are covered by the digests of shards."""
        return hashlib.sha256(json.dumps(self.record(clip), sort_keys=True).encode()).hexdigest()

    # ---- tokens
    def predict_step(self, batch: Batch, batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, dict[str, Tensor]]:
        """Planned tokens of a batch: video [B, K_v, C_v] and audio [B, K_a, C_a]."""
        plan = plan_one_by_one(self.planner, batch)
        return {PLANS: {"video": plan.video.to(self.cache_dtype), "audio": plan.audio.to(self.cache_dtype)}}
