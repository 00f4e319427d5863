"""A run on two ranks, started by tests as a process: `two_ranks.py FOLDER STRATEGY PRECISION ACTION`; what happens is told by callbacks."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from baton_lightning.construction.deepspeed_cpu import CPUDeepSpeedStrategy
from callbacks.gradient_guard import GradientGuard
from callbacks.watchdog import Watchdog

STEPS = 6


class Line(LightningModule):
    """A small network."""

    louder = 1.0

    def configure_model(self) -> None:
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return self.louder * self.net(batch.audio_latents).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Poison(Callback):
    """Gives rank 1 a loud batch at step 1, a clip of NaN at steps 2 and 4; tells what the network puts out before each step."""

    def on_train_batch_start(self, trainer: Trainer, module: Line, batch: Batch, batch_idx: int) -> None:
        with torch.no_grad():
            result = module.net(torch.ones(1, 3).to(next(module.parameters()).dtype))
        if trainer.is_global_zero:
            print(f"output {batch_idx} {float(result).hex()}", flush=True)
        module.louder = 1e6 if trainer.global_rank == 1 and batch_idx == 1 else 1.0
        if trainer.global_rank == 1 and batch_idx in (2, 4):
            batch.audio_latents[1, 0, 0] = float("nan")


class Sleep(Callback):
    """Rank 1 falls asleep at step 3, before its backward pass."""

    def on_before_backward(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 3:
            time.sleep(3000)


def batch(rank: int, step: int) -> Batch:
    generator = torch.Generator().manual_seed(10 * step + rank)
    keys = [f"rank{rank}-step{step}-{i}" for i in range(2)]
    return Batch(keys, torch.arange(2), 0, [""] * 2, [""] * 2, audio_latents=torch.randn(2, 5, 3, generator=generator))


def main(folder: str, strategy: str, precision: str, action: str) -> None:
    seed_everything(0, verbose=False)
    guard = GradientGuard("skip", max_skips=2, spike=1000)
    guard.norms = [1.0] * 20
    callbacks = {"guard": [Poison(), guard], "sleep": [Sleep(), Watchdog(15)]}[action]
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=CPUDeepSpeedStrategy(stage=int(strategy[-1])) if strategy != "ddp" else "ddp",
        precision=precision, max_steps=STEPS, max_epochs=-1, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader([batch(trainer.global_rank, step) for step in range(STEPS)], batch_size=None))
    print("trained to the end", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(*sys.argv[1:])
