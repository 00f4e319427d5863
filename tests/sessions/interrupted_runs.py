"""A toy run that is cut off amid its steps, and goes on by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from baton_lightning.__main__ import main
from baton_lightning.runs import manifest

ROOT = Path(__file__).parents[2]
MODULE = """
import os
import torch
from lightning.pytorch import Callback, LightningModule
from baton_lightning.optim import OptimizerFactory, SchedulerFactory, build_optimizer

class Toy(LightningModule):
    def __init__(self, clip, optimizer: OptimizerFactory, scheduler: SchedulerFactory | None = None, dropout: float = 0.0,
                 parents: dict[str, str] | None = None, seed: int = 0):
        super().__init__()
        self.optimizer, self.scheduler, self.parents = optimizer, scheduler, parents or {}
        self.weight = torch.nn.Parameter(torch.zeros(3))
    def configure_model(self):
        assert not os.environ.get("NO_NETWORKS"), "networks were built"
    def configure_optimizers(self):
        return build_optimizer(self, self.optimizer, self.scheduler)
    def training_step(self, batch, batch_idx):
        return (self.weight - batch.context.mean((0, 1))).square().sum()

class PowerCut(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        with open(os.environ["RATES"], "a") as file:
            file.write(f"{trainer.optimizers[0].param_groups[0]['lr']:g}\\n")
        if str(trainer.global_step) == os.environ.get("POWER_CUT"):
            raise ValueError("power cut")
"""
SCHEDULE = {"class_path": "baton_lightning.optim.WarmupCosine", "init_args": {"warmup_steps": 0, "total_steps": "${trainer.max_steps}"}}


def setting(base: Path, root: Path) -> dict[str, Any]:
    """A small experiment, of which `root` holds the runs."""
    saver = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"][0]
    saver["init_args"] |= {"every_n_train_steps": 2}
    callbacks = [saver, {"class_path": "callbacks.ledger.Ledger"}, {"class_path": "segments_toy.PowerCut"}]
    trainer = {"max_steps": 6, "val_check_interval": 6, "limit_val_batches": 0, "accelerator": "cpu", "callbacks": callbacks}
    return {
        "base": str(ROOT / "experiments/base.yaml"),
        "clip": {"text_tokens": 2, "text_width": 3},
        "model": {
            "class_path": "segments_toy.Toy",
            "init_args": {
                "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
                "parents": {"planner": str(base / "parents/one")},
            },
        },
        "data": {"init_args": {"root": str(base / "set"), "batch_size": 4, "fields": ["text"]}},
        "run": {"root": str(root), "experiment": "e", "stage": "s"},
        "trainer": trainer | {"enable_progress_bar": False, "enable_model_summary": False, "logger": False},
    }


class Runs:
    """Runs of one root, which are cut off or go on."""

    def __init__(self, base: Path, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.base, self.root, self.patch = base, root, patch
        self.folder = root / "e/s"

    def fit(self, *more: str, cut: int | None = None, stage: str = "s", code: int = 0) -> None:
        self.patch.setenv("POWER_CUT", str(cut))
        self.patch.setenv("RATES", str(self.root.parent / "rates.txt"))
        (self.root.parent / "rates.txt").unlink(missing_ok=True)
        file = self.root.parent / "experiment.yaml"
        file.write_text(yaml.safe_dump(setting(self.base, self.root)))
        assert main(["fit", "-c", str(file), f"--run.stage={stage}", *more]) == (1 if cut else code)

    @property
    def rates(self) -> list[float]:
        """Learning rates at the beginning of each batch of the last session."""
        return [float(line) for line in (self.root.parent / "rates.txt").read_text().split()]

    def recorded(self, stage: str = "s") -> list[tuple[int, list[str]]]:
        made = manifest.read(self.root / "e" / stage)
        return [(segment["step"], segment["changed"]) for segment in made["segments"]]
