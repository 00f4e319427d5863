"""A progress bar in optimiser steps over the whole run. Lightning's own bar restarts every epoch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StepProgress(TQDMProgressBar):
    """Shows ``global_step / max_steps``, for runs that are limited by ``max_steps``. Rate and time left are those of this start."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        bar = self.train_progress_bar
        bar.reset(total=trainer.max_steps if trainer.max_steps > 0 else None)
        bar.initial = bar.n = trainer.global_step  # steps of earlier starts took none of this one's time
        bar.set_description("steps")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self._show(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._show(trainer)
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        bar = self.train_progress_bar
        bar.update(trainer.global_step - bar.n)
