"""Keeps changed hyperparameters of the optimiser on resume: a checkpoint stores the old ones, and restoring it would undo the change."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

SETTINGS = ("model.init_args.optimizer", "model.init_args.scheduler", "model.init_args.rates")
"""Settings that describe the optimiser of a stage."""
PROGRESS = ("params", "step", "last_epoch", "lr_lambdas")
"""Entries of parameter groups and schedules that are restored from the checkpoint or cannot be stored in one.
Names that begin with ``_`` are treated in the same way."""


class ConfiguredOptimizer(Callback):
    """Keeps the configured hyperparameters of optimisers and schedules on resume. Moments and counters come from the checkpoint.

    A schedule keeps its position. Its learning rates are scaled to the configured rate. The first step may still follow the old schedule.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies the hyperparameters: optimisers exist here, and no checkpoint is restored yet."""
        self.groups = [[hyperparameters(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self.schedules = [hyperparameters(schedule.scheduler.state_dict()) for schedule in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer, groups in zip(trainer.optimizers, self.groups, strict=True):
            for group, configured in zip(optimizer.param_groups, groups, strict=True):
                if before := group.get("initial_lr"):
                    configured = configured | {"lr": group["lr"] * configured["initial_lr"] / before}
                group.update(configured)
        for schedule, configured in zip(trainer.lr_scheduler_configs, self.schedules, strict=True):
            vars(schedule.scheduler).update(configured)


def hyperparameters(values: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters among the entries of a parameter group or of a schedule's state."""
    named = {key: value for key, value in values.items() if key not in PROGRESS and not key.startswith("_")}
    return {key: list(value) if isinstance(value, list) else value for key, value in named.items()}
