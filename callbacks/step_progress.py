"""A progress bar over the whole run in steps, where Lightning's own starts again every epoch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StepProgress(TQDMProgressBar):
    """Shows ``global_step / max_steps``; for runs that end after a number of steps."""

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self.train_progress_bar.reset(total=trainer.max_steps)
        self.train_progress_bar.set_description("steps")
        self._show(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._show(trainer)
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        bar = self.train_progress_bar
        bar.update(trainer.global_step - bar.n)
