"""Logs pictures of planned and true tokens to TensorBoard at every validation of the stages that train a planner."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from baton_lightning.batch import Batch, Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.plan.picture import png


class PlanPictures(Callback):
    """Draws the plans of the first validation clips beside their features, with the error of each video token.

    It needs the outputs of ``validation_step``: plan and target. The colours are principal components of the features, see
    :func:`baton_lightning.plan.picture.draw`. Rank 0 draws its own clips; nothing is communicated. Clips that lack a modality are left out.

    Args:
        num_plans: Clips per validation; 0 = none.
    """

    def __init__(self, num_plans: int = 2) -> None:
        self.num_plans = num_plans
        self.kept: list[tuple[str, ClipSpec, str, dict[str, Tensor], dict[str, Tensor]]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.kept = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(outputs, dict):
            return
        for row, key in enumerate(batch.keys):
            if len(self.kept) >= self.num_plans:
                return
            if all(present is None or present[row] for present in (batch.has_video, batch.has_audio)):
                prompts = f"{batch.video_prompts[row]}\n{batch.audio_prompts[row]}"
                clip: ClipSpec = pl_module.clip.at(batch.geometry)  # type: ignore[operator, union-attr]
                self.kept.append((key, clip, prompts, tokens_of(outputs["plan"], row), tokens_of(outputs["target"], row)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = getattr(trainer.logger, "experiment", None)
        if hasattr(writer, "add_image"):
            for key, clip, prompts, plan, target in self.kept:
                picture = Image.open(io.BytesIO(png(clip, plan, prompts, target))).convert("RGB")
                writer.add_image(f"plans/{key}", np.asarray(picture), trainer.global_step, dataformats="HWC")
        self.kept = []


def tokens_of(plan: Plan, row: int) -> dict[str, Tensor]:
    """Tokens of one clip of a batch, on the CPU: video [N, h, w, C_v], audio [K_a, C_a]."""
    video, audio = (tokens[row].detach().float().cpu() for tokens in (plan.video, plan.audio))
    return {"video": video.unflatten(0, plan.video_grid), "audio": audio}
