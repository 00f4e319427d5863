"""Averages of weights: what they are, that they survive, and that training does not notice them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from baton_lightning.construction.sharding import GatherWeights, final_weights
from baton_lightning.muon import MuonAdamW
from callbacks.ema import AVERAGE, EMA

DATA = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(0))
OPTIMIZERS = {"adamw": lambda p: torch.optim.AdamW(p, lr=0.1), "muon": lambda p: MuonAdamW(p, lr=0.1, matrix_rate=2.0)}


class Net(LightningModule):
    def __init__(self, optimizer: Any = OPTIMIZERS["adamw"]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        self.frozen, self.unused = torch.nn.Linear(2, 2).requires_grad_(False), torch.nn.Linear(2, 2)
        self.optimizer = optimizer
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.net(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.net[0].weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


class Record(Callback):
    """Every weight after every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Net, *_: Any) -> None:
        self.weights.append({k: p.detach().clone() for k, p in module.named_parameters()})


class Power(Callback):
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            raise RuntimeError("the power failed")


def fit(folder: Path, module: Net, *callbacks: Callback, start: str | None = None, **more: Any) -> Trainer:
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_model_summary=False, enable_progress_bar=False, default_root_dir=folder,
        callbacks=[*callbacks, ModelCheckpoint(folder, every_n_train_steps=5, save_last=True)], num_sanity_val_steps=0, **more,
    )  # fmt: skip
    trainer.fit(module, DataLoader(DATA, batch_size=None), DataLoader(DATA[:1], batch_size=None), ckpt_path=start)
    return trainer


def weights(module: Net) -> dict[str, torch.Tensor]:
    return {k: p.detach().clone() for k, p in module.named_parameters()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_average_is_the_closed_form_of_the_weights_and_training_does_not_notice(tmp_path: Path, optimizer: str) -> None:
    plain, averaged, record = Net(OPTIMIZERS[optimizer]), Net(OPTIMIZERS[optimizer]), Record()
    fit(tmp_path / "plain", plain)
    trainer = fit(tmp_path / "averaged", averaged, EMA(0.6), record)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), averaged.parameters(), strict=True))
    with final_weights(trainer):
        got = weights(averaged)
    for name in got:
        wanted = record.weights[0][name].double()
        for step, row in enumerate(record.weights[1:], 1):
            decay = min(0.6, (1 + step) / (10 + step))
            wanted = decay * wanted + (1 - decay) * row[name].double()
        torch.testing.assert_close(got[name].double(), wanted, atol=1e-6, rtol=0)
    assert not torch.equal(got["net.0.weight"], averaged.net[0].weight)
    assert torch.equal(averaged.validated[0], got["net.0.weight"]), "validation sees the averages"


def test_a_resumed_runs_average_is_the_uninterrupted_ones_to_the_bit(tmp_path: Path) -> None:
    def average(trainer: Trainer) -> dict[str, torch.Tensor]:
        with final_weights(trainer):
            return weights(trainer.lightning_module)

    whole = average(fit(tmp_path / "whole", Net(), EMA(0.9), val_check_interval=3))
    with pytest.raises(RuntimeError, match="the power failed"):
        fit(tmp_path / "stopped", Net(), EMA(0.9), Power(), val_check_interval=3)
    saved = torch.load(tmp_path / "stopped/last.ckpt", weights_only=True)
    assert AVERAGE in saved["optimizer_states"][0]["state"][0] and saved["global_step"] == 5

    class Rest(Net):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return super().training_step(DATA[self.trainer.global_step], batch_idx)

    later = average(fit(tmp_path / "stopped", Rest(), EMA(0.9), start=str(tmp_path / "stopped/last.ckpt"), val_check_interval=3))
    assert all(torch.equal(whole[name], later[name]) for name in whole)


@pytest.mark.parametrize("sharded", [True, False])
def test_a_run_started_again_after_its_last_step_hands_on_what_it_would_have(tmp_path: Path, sharded: bool) -> None:
    def handed_on(start: str | None = None) -> dict[str, torch.Tensor]:
        whole = GatherWeights()
        trainer = fit(tmp_path, Net(), EMA(0.9), *([whole] if sharded else []), start=start, max_steps=10)
        if sharded:
            return whole.weights
        with final_weights(trainer):
            return weights(trainer.lightning_module)

    first, again = handed_on(), handed_on(str(tmp_path / "last.ckpt"))
    assert first.keys() == again.keys() and len(first) > 0
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_checkpoints_hold_the_weights_that_are_trained_when_a_validation_writes_them(tmp_path: Path) -> None:
    module = Net()
    fit(tmp_path, module, EMA(0.9), ModelCheckpoint(tmp_path / "validated", save_top_k=-1))
    (checkpoint,) = (tmp_path / "validated").glob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[k], p) for k, p in module.named_parameters())


def test_an_optimiser_without_moments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SGD, which has none; use AdamW"):
        fit(tmp_path, Net(lambda p: torch.optim.SGD(p, lr=0.1)), EMA())


def test_weights_in_half_precision_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"full precision, got torch.bfloat16; use precision bf16-mixed"):
        fit(tmp_path, Net(), EMA(), precision="bf16-true")


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        EMA(decay)
