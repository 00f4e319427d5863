"""Gradients that are not to be believed: the step is left out or the run ends, on every rank, and the clips are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from baton_lightning.flow.timesteps import UniformTimesteps
from callbacks.batch_description import describe
from callbacks.gradient_guard import GradientGuard

ROOT = Path(__file__).parents[2]
STEPS = 30


def batch(step: int, scale: float = 1.0) -> Batch:
    latents = scale * torch.ones(2, 5, 3)
    return Batch([f"clip{step}a", f"clip{step}b"], torch.arange(2), 0, ["v"] * 2, ["a"] * 2, audio_latents=latents)


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.history: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.history.append(float(self.weight.detach().sum()))
        return (self.weight * batch.audio_latents.mean()).square().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def fit(folder: Path, module: Tiny, guard: GradientGuard, scales: dict[int, float], accumulate: int = 1) -> Trainer:
    trainer = Trainer(
        max_epochs=1, logger=False, callbacks=[guard], accelerator="cpu", enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=folder, enable_progress_bar=False, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    trainer.fit(module, DataLoader([batch(i, scales.get(i, 1.0)) for i in range(STEPS)], batch_size=None))
    return trainer


def test_a_nan_stops_the_run_before_the_weights_move_and_names_the_clips(tmp_path: Path) -> None:
    module = Tiny()
    with pytest.raises(
        ValueError, match=r"finite, got NaN or Inf at step 3, epoch 0, rank 0: loss nan, clips clip3a \(picture and sound, aud"
    ):
        fit(tmp_path, module, GradientGuard(), {3: float("nan")})
    assert module.history[-1] == float(module.weight.detach().sum())


def test_a_skipped_step_leaves_weights_and_moments_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, guard = Tiny(), GradientGuard("skip")
    trainer = fit(tmp_path, module, guard, {3: float("inf")})
    assert module.history[4] == module.history[3] and module.history[5] < module.history[4]
    assert int(trainer.optimizers[0].state[module.weight]["step"]) == STEPS - 1
    assert guard.state_dict()["skips"] == 1 and "clip3a" in capsys.readouterr().out


def test_too_many_skips_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        fit(tmp_path, Tiny(), GradientGuard("skip", max_skips=1), {1: float("nan"), 4: float("nan")})


def test_of_accumulated_batches_the_one_with_the_nan_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rank 0: loss nan, clips clip4a") as error:
        fit(tmp_path, Tiny(), GradientGuard(), {4: float("nan")}, accumulate=3)
    assert "clip3a" not in str(error.value) and "clip5a" not in str(error.value)


def test_a_spike_is_skipped_and_is_no_measure_of_what_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, guard = Tiny(), GradientGuard("skip", spike=8)
    fit(tmp_path, module, guard, {5: 10.0, 25: 10.0})
    assert module.history[6] != module.history[5], "too early to tell"
    assert module.history[26] == module.history[25] and guard.skips == 1
    assert "8 times the median of the last 25" in capsys.readouterr().out and len(guard.norms) == STEPS - 1


def test_what_is_usual_is_remembered_across_a_resume(tmp_path: Path) -> None:
    guard = GradientGuard(spike=8)
    guard.load_state_dict({"skips": 0, "norms": [0.1] * 20})
    with pytest.raises(ValueError, match=r"must be below 0.8 .* got a norm of 3.46.* at step 0"):
        fit(tmp_path, Tiny(), guard, {})


def test_a_spike_below_the_usual_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above 1, got 1"):
        GradientGuard(spike=1)


def test_clips_are_named_with_shard_time_and_modality() -> None:
    sounds = Batch(["x", "y"], torch.arange(2), 3, [""] * 2, [""] * 2, has_video=torch.tensor([True, False]))
    tars = SimpleNamespace(tar=lambda number: Path(f"clips-{number:06d}.tar"))
    loader = SimpleNamespace(dataset=SimpleNamespace(places=[(0, "y"), (7, "x")], index=tars))
    trainer, module = SimpleNamespace(train_dataloader=loader), SimpleNamespace(timesteps=UniformTimesteps(), seed=5)
    times = UniformTimesteps().draw(seed=5, epoch=3, index=sounds.index)
    printed = describe(trainer, module, sounds)  # type: ignore[arg-type]
    assert printed == f"clips x (clips-000007.tar, t {times[0]:.3f}, picture and sound), y (clips-000000.tar, t {times[1]:.3f}, sound)"


def two_ranks(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs two_ranks.py."""
    command = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(folder), *words]
    environment: Any = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "precision"),
    [("ddp", "32-true"), ("zero1", "32-true"), ("zero2", "bf16-mixed"), ("zero3", "32-true"), ("zero3", "bf16-mixed")],
)
def test_a_spike_and_a_nan_in_one_ranks_batch_are_skipped_and_the_next_stops_both_ranks(
    tmp_path: Path, strategy: str, precision: str
) -> None:
    done = two_ranks(tmp_path, strategy, precision, "guard")
    printed = done.stdout + done.stderr
    spike, nan = re.findall(r"skipped a step .*", done.stdout)
    assert "below 1000 (1000 times the median of the last 21), got a norm of" in spike and "at step 1" in spike
    assert "rank 0: loss" in spike and "rank 1: loss" in spike, "whose it was is not known"
    assert "at step 2" in nan and "rank 1: loss nan, clips rank1-step2-1 (" in nan and "rank0" not in nan
    stopped = set(re.findall(r"ValueError: (gradients must be finite, got NaN or Inf at step 4, .*)", printed))
    assert len(stopped) == 1 and "rank 1: loss nan, clips rank1-step4-1 (" in stopped.pop()
    assert done.returncode != 0 and "trained to the end" not in printed
    outputs = dict(re.findall(r"output (\d) (\S+)", done.stdout))
    assert outputs["1"] == outputs["2"] == outputs["3"] and len(set(outputs.values())) == 3
