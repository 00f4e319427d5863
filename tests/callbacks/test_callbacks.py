"""Callbacks on a real trainer, read back from real event files."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch
from callbacks.pictures import GAP, MARGIN, frame_strips, gif, spectrogram, spectrograms
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
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def training_step(self, batch, batch_idx):
        loss = (self.weight * batch.audio_latents.mean()).square().sum()
        self.log("train/loss", loss, batch_size=2)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, module, *callbacks, steps=6, **options):
    data = DataLoader([batch(i) for i in range(steps)], batch_size=None)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = Trainer(
        max_epochs=1,
        logger=logger,
        callbacks=list(callbacks),
        accelerator="cpu",
        log_every_n_steps=options.pop("log_every_n_steps", 2),
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        enable_progress_bar=any(isinstance(c, StepProgress) for c in callbacks),
        **options,
    )
    trainer.fit(module, data)
    return trainer


def logged(tmp_path, name):
    """Step -> value of ``perf/name``."""
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = events.Scalars(f"perf/{name}")
    assert len({event.step for event in scalars}) == len(scalars)
    return {event.step: event.value for event in scalars}


def test_throughput_is_logged_and_its_wait_is_a_share(tmp_path):
    fit(tmp_path, Tiny(), Throughput())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"perf/samples_per_s", "perf/tokens_per_s", "perf/data_wait_share"} <= set(events.Tags()["scalars"])
    assert all(0 <= e.value <= 1 for e in events.Scalars("perf/data_wait_share"))


class Heavy(Tiny):
    """A frozen product of 20 x 50 by 50 x 30, then one of 20 x 30 by 30 x 40, whose forward may be repeated in the backward pass."""

    def __init__(self, repeats: bool, linear=torch.nn.functional.linear) -> None:
        super().__init__()
        self.frozen = torch.nn.Linear(50, 30, bias=False).requires_grad_(False)
        self.layer, self.repeats, self.linear = torch.nn.Linear(30, 40), repeats, linear

    def training_step(self, batch, batch_idx):
        x = self.linear(torch.ones(20, 50), self.frozen.weight, None) + torch.zeros(20, 30, requires_grad=True)
        y = checkpoint(self.waves, x, use_reentrant=False) if self.repeats else self.waves(x)
        return y.square().mean() + super().training_step(batch, batch_idx)

    def waves(self, x):
        return self.linear(x, self.layer.weight, self.layer.bias).sin()


@pytest.mark.parametrize("repeats", [False, True])
def test_mfu_is_work_over_what_the_device_could_do_and_a_repeated_forward_is_no_work(tmp_path, repeats):
    throughput = Throughput(peak_tflops=1e-6)
    fit(tmp_path, Heavy(repeats), throughput)
    frozen, trained = 2 * 20 * 50 * 30, 2 * 20 * 30 * 40
    assert throughput.flops.forward == frozen + trained and throughput.flops.backward == (3 if repeats else 2) * trained
    assert throughput.flops.useful_flops == frozen + 3 * trained
    per_second = [value / 2 for value in logged(tmp_path, "samples_per_s").values()]  # batches of two clips
    mfu = list(logged(tmp_path, "mfu").values())
    assert mfu == pytest.approx([(frozen + 3 * trained) * rate / 1e6 for rate in per_second], rel=1e-4) and len(mfu) == 3
    assert logged(tmp_path, "memory_gib")[6] > 0.05


def test_work_is_the_same_with_the_linear_layers_that_deepspeed_puts_in_their_place(tmp_path):
    from deepspeed.runtime.zero.linear import zero3_linear_wrap

    throughput = Throughput(peak_tflops=1e-6)
    fit(tmp_path, Heavy(True, zero3_linear_wrap), throughput)
    assert throughput.flops.useful_flops == 2 * 20 * 50 * 30 + 3 * 2 * 20 * 30 * 40


def test_with_accumulated_gradients_rates_are_logged_once_a_step_and_cover_every_batch(tmp_path, monkeypatch):
    throughput, counts = Throughput(), []
    reset = throughput.reset
    monkeypatch.setattr(throughput, "reset", lambda: (counts.append(throughput.samples), reset()))
    fit(tmp_path, Tiny(), throughput, steps=16, accumulate_grad_batches=4)
    assert list(logged(tmp_path, "samples_per_s")) == [2, 4]
    assert counts == [0, 16, 16]  # at the start, and the clips of eight batches each time
    assert logged(tmp_path, "tokens_per_s")[4] == pytest.approx(21 * logged(tmp_path, "samples_per_s")[4])


class Validated(Tiny):
    def validation_step(self, batch, batch_idx):
        pass

    def val_dataloader(self):
        return DataLoader([batch(0)], batch_size=None)

    def on_validation_epoch_end(self):
        time.sleep(0.5)


def test_validation_is_no_time_of_training_and_its_neighbours_are_not_forgotten(tmp_path):
    fit(tmp_path, Validated(), Throughput(), steps=8, val_check_interval=1, log_every_n_steps=4, num_sanity_val_steps=0)
    assert all(value > 8 / 0.5 for value in logged(tmp_path, "samples_per_s").values())
    assert all(value < 0.9 for value in logged(tmp_path, "data_wait_share").values())


def test_tokens_are_counted_by_place_not_by_channel():
    assert num_tokens(batch(0)) == 2 * (4 * 2 * 2) + 2 * 5


def test_the_summary_says_what_was_trained(tmp_path, capsys):
    fit(tmp_path, Tiny(), RunSummary())
    out = capsys.readouterr().out
    assert "3 trained, 0 frozen" in out and "train/loss" in out


def test_the_progress_bar_counts_the_steps_of_the_run(tmp_path):
    bar = StepProgress()
    trainer = fit(tmp_path, Tiny(), bar)
    assert bar.train_progress_bar.n == trainer.global_step == 6


def test_the_progress_bar_does_not_start_again_and_counts_no_step_of_an_earlier_start(tmp_path):
    bar, resumed = StepProgress(), StepProgress()
    trainer = fit(tmp_path, Tiny(), bar)
    began = bar.train_progress_bar.start_t
    bar.on_train_epoch_start(trainer)
    assert (bar.train_progress_bar.start_t, bar.train_progress_bar.n) == (began, 6)
    resumed._train_progress_bar = resumed.init_train_tqdm()
    resumed._trainer = trainer
    resumed.on_train_start(trainer, trainer.lightning_module)
    assert resumed.train_progress_bar.format_dict["initial"] == 6 and resumed.train_progress_bar.format_dict["rate"] is None


def test_pictures_have_the_sizes_they_promise():
    frames = np.random.default_rng(0).integers(0, 255, (25, 32, 48, 3), np.uint8)
    sheet = frame_strips({"generated": frames, "true": frames[::-1]}, num=5, height=64)
    assert sheet.shape == (2 * 64 + GAP, MARGIN + 5 * 96 + 4 * GAP, 3)
    assert (sheet[:, MARGIN + 96 : MARGIN + 96 + GAP] == 255).all() and (sheet[64 : 64 + GAP] == 255).all()
    assert (sheet[:64, MARGIN : MARGIN + 96] == sheet[64 + GAP :, -96:]).all()  # the first frame of one is the last of the other
    image = Image.open(io.BytesIO(gif(frames, 12, height=64)))
    assert image.n_frames == 25 and image.size == (96, 64)


def test_a_tone_is_bright_at_its_own_height():
    times = np.arange(16000) / 16000
    image = spectrogram(np.sin(2 * np.pi * 2000 * times).astype(np.float32), 16000, height=200).mean((1, 2))
    assert abs(int(image.argmax()) - 200 * (1 - 2000 / 8000)) < 6


def test_spectrograms_have_a_row_for_each_sound():
    tone = np.sin(2 * np.pi * 2000 * np.arange(16000) / 16000).astype(np.float32)
    one, two = spectrograms({"generated": tone}, 16000), spectrograms({"generated": tone, "true": tone}, 16000)
    assert one.shape[1] == two.shape[1] == 640 and two.shape[0] > 1.6 * one.shape[0]
