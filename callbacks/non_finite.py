"""Stops or skips a step whose loss or gradients are not finite, and says which clips it was."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from baton_lightning.batch import Batch


class NonFiniteGuard(Callback):
    """Watches loss and gradients; all ranks decide together.

    Args:
        action: ``stop`` ends the run before the weights are touched, with the last checkpoint intact; ``skip`` drops the step's gradients.
        max_skips: Skips after which the run stops all the same.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", max_skips: int = 10) -> None:
        self.action, self.max_skips, self.skips = action, max_skips, 0
        self.batch: Batch | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batch = batch

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        finite = all(bool(torch.isfinite(g).all()) for g in gradients)
        if not trainer.strategy.reduce_boolean_decision(not finite, all=False):
            return
        self.skips += 1
        clips = ", ".join(self.batch.keys[:4]) + (" ..." if len(self.batch) > 4 else "") if self.batch is not None else "unknown"
        where = f"step {trainer.global_step}, epoch {self.batch.epoch if self.batch else '?'}, clips {clips}"
        if self.action == "stop" or self.skips > self.max_skips:
            raise ValueError(
                f"gradients must be finite, got NaN or Inf at {where}; the last checkpoint is whole. Lower the learning rate, check these "
                "clips, or set callbacks.non_finite.NonFiniteGuard action to skip"
            )
        print(f"skipped a step with non-finite gradients ({self.skips} of at most {self.max_skips}): {where}", flush=True)
        for gradient in gradients:
            gradient.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"skips": self.skips}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skips = state_dict["skips"]
