"""Callbacks on a real trainer, read back from real event files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from callbacks.non_finite import NonFiniteGuard
from callbacks.pictures import frame_strip, gif, spectrogram
from callbacks.run_summary import RunSummary
from callbacks.step_progress import StepProgress
from callbacks.throughput import Throughput, num_tokens


def batch(step: int) -> Batch:
    return Batch(
        [f"clip{step}a", f"clip{step}b"],
        torch.arange(2),
        0,
        ["v"] * 2,
        ["a"] * 2,
        video_latents=torch.ones(2, 3, 4, 2, 2),
        audio_latents=torch.ones(2, 5, 3),
    )


class Tiny(LightningModule):
    def __init__(self, poison: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.poison = poison
        self.history: list[float] = []

    def training_step(self, batch, batch_idx):
        self.history.append(float(self.weight.detach().sum()))
        loss = (self.weight * batch.audio_latents.mean()).square().sum()
        self.log("train/loss", loss, batch_size=2)
        return loss * float("nan") if batch_idx == self.poison else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, module, *callbacks, steps=6):
    data = DataLoader([batch(i) for i in range(steps)], batch_size=None)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = Trainer(
        max_epochs=1,
        logger=logger,
        callbacks=list(callbacks),
        accelerator="cpu",
        log_every_n_steps=2,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        enable_progress_bar=any(isinstance(c, StepProgress) for c in callbacks),
    )
    trainer.fit(module, data)
    return trainer


def test_throughput_is_logged_and_its_wait_is_a_share(tmp_path):
    fit(tmp_path, Tiny(), Throughput())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"perf/samples_per_s", "perf/tokens_per_s", "perf/data_wait_share"} <= set(events.Tags()["scalars"])
    assert all(0 <= e.value <= 1 for e in events.Scalars("perf/data_wait_share"))


def test_tokens_are_counted_by_place_not_by_channel():
    assert num_tokens(batch(0)) == 2 * (4 * 2 * 2) + 2 * 5


def test_a_nan_stops_the_run_before_the_weights_move_and_names_the_clips(tmp_path):
    module = Tiny(poison=3)
    with pytest.raises(ValueError, match=r"step 3, epoch 0, clips clip3a, clip3b"):
        fit(tmp_path, module, NonFiniteGuard())
    assert torch.isfinite(module.weight).all()


def test_a_skipped_step_leaves_the_weights_as_they_were(tmp_path, capsys):
    module, guard = Tiny(poison=3), NonFiniteGuard("skip")
    fit(tmp_path, module, guard)
    assert module.history[4] == module.history[3] and module.history[5] < module.history[4]
    assert guard.state_dict() == {"skips": 1} and "clip3a" in capsys.readouterr().out


def test_too_many_skips_stop_the_run(tmp_path):
    with pytest.raises(ValueError, match="must be finite"):
        fit(tmp_path, Tiny(poison=1), NonFiniteGuard("skip", max_skips=0))


def test_the_summary_says_what_was_trained(tmp_path, capsys):
    fit(tmp_path, Tiny(), RunSummary())
    out = capsys.readouterr().out
    assert "3 trained, 0 frozen" in out and "train/loss" in out


def test_the_progress_bar_counts_the_steps_of_the_run(tmp_path):
    bar = StepProgress()
    trainer = fit(tmp_path, Tiny(), bar)
    assert bar.train_progress_bar.n == trainer.global_step == 6


def test_pictures_have_the_sizes_they_promise():
    frames = np.random.default_rng(0).integers(0, 255, (25, 32, 48, 3), np.uint8)
    assert frame_strip(frames, num=5, height=64).shape == (64, 5 * 96, 3)
    image = Image.open(io.BytesIO(gif(frames, 12, height=64)))
    assert image.n_frames == 25 and image.size == (96, 64)


def test_a_tone_is_bright_at_its_own_height():
    times = np.arange(16000) / 16000
    image = spectrogram(np.sin(2 * np.pi * 2000 * times).astype(np.float32), 16000, height=200).mean((1, 2))
    assert abs(int(image.argmax()) - 200 * (1 - 2000 / 8000)) < 6
