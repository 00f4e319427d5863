"""The optimiser as a session asks for it: a checkpoint brings the hyperparameters it was made with, which would undo changed ones."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

SETTINGS = ("model.init_args.optimizer", "model.init_args.scheduler", "model.init_args.rates")
"""Where a stage's configuration describes its optimiser."""
PROGRESS = ("params", "step", "last_epoch", "lr_lambdas")
"""Entries of groups and schedules that belong to the checkpoint, or cannot be stored in one; so do those that begin with ``_``."""


class AskedOptimizer(Callback):
    """Keeps the hyperparameters of optimisers and schedules while a checkpoint is restored over them; moments and counters are its own.

    A schedule's position stays, its rates are scaled to the rate that is asked for. The first step may still follow the old curve.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimisers are there, and nothing is restored yet."""
        self.groups = [[kept(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self.schedules = [kept(schedule.scheduler.state_dict()) for schedule in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer, groups in zip(trainer.optimizers, self.groups, strict=True):
            for group, asked in zip(optimizer.param_groups, groups, strict=True):
                if before := group.get("initial_lr"):
                    asked = asked | {"lr": group["lr"] * asked["initial_lr"] / before}
                group.update(asked)
        for schedule, asked in zip(trainer.lr_scheduler_configs, self.schedules, strict=True):
            vars(schedule.scheduler).update(asked)


def kept(values: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters among the entries of a group or of a schedule's state."""
    named = {key: value for key, value in values.items() if key not in PROGRESS and not key.startswith("_")}
    return {key: list(value) if isinstance(value, list) else value for key, value in named.items()}
