"""Generates clips after every validation, as mp4 files with sound, and logs pictures, sound and prompts to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.generation.generator import Generator
from baton_lightning.names import require_name
from baton_lightning.stages.joint import JointTraining
from callbacks.pictures import frame_strip, gif, spectrogram


class SampleLogger(Callback):
    """Generates clips for the first validation prompts of stage 3; for other modules it does nothing.

    All ranks sample the same clips, with the prompts of rank 0, because under ZeRO-3 every rank holds a part of every layer. They compute
    in the run's precision, as in a validation step. Rank 0 decodes and writes.

    Args:
        num_samples: Clips per validation; 0 = none.
    """

    def __init__(self, num_samples: int = 2) -> None:
        self.num_samples = num_samples
        self.batches: list[Batch] = []
        self.generator: Generator | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.generator = Generator(pl_module) if isinstance(pl_module, JointTraining) else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches = []

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        missing = self.num_samples - sum(map(len, self.batches))
        if missing > 0 and trainer.is_global_zero:
            self.batches.append(batch.first(missing).to("cpu"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        generator = self.generator
        if not self.num_samples or trainer.sanity_checking or generator is None:
            return
        for batch in trainer.strategy.broadcast(self.batches):
            with torch.no_grad():
                latents = as_in_validation(trainer, pl_module, generator.sample_own, batch.to(pl_module.device))
                if trainer.is_global_zero:
                    self._write(trainer, generator, batch, *generator.decode(*latents))
        self.batches = []

    def _write(self, trainer: Trainer, generator: Generator, batch: Batch, frames: Tensor, waveform: Tensor) -> None:
        folder = Path(trainer.default_root_dir) / "samples" / f"step-{trainer.global_step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, key in enumerate(batch.keys):
            generator.write(folder / f"{require_name(key, 'the key of a clip')}.mp4", frames[i], waveform[i])
            self._log(trainer, generator.model.clip, key, frames[i], waveform[i], f"{batch.video_prompts[i]} {batch.audio_prompts[i]}")

    def _log(self, trainer: Trainer, clip: ClipSpec, key: str, frames: Tensor, waveform: Tensor, prompt: str) -> None:
        pictures, sound = frames.cpu().numpy(), waveform.float().cpu().numpy()
        writer = getattr(trainer.logger, "experiment", None)
        if writer is None or not hasattr(writer, "add_image"):
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        step, tag = trainer.global_step, f"samples/{key}"
        writer.add_image(f"{tag}/frames", frame_strip(pictures), step, dataformats="HWC")
        writer.add_image(f"{tag}/spectrogram", spectrogram(sound, clip.sample_rate), step, dataformats="HWC")
        moving = Summary.Image(encoded_image_string=gif(pictures, clip.fps), height=128, width=128, colorspace=3)
        writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=f"{tag}/moving", image=moving)]), step)
        writer.add_audio(f"{tag}/sound", sound[None], step, sample_rate=clip.sample_rate)
        writer.add_text(f"{tag}/prompt", prompt, step)


def as_in_validation(trainer: Trainer, pl_module: LightningModule, function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in the way the strategy calls a validation step: through its wrapper module, in the run's precision."""
    strategy = trainer.strategy
    with strategy.precision_plugin.val_step_context():
        if strategy.model is strategy.lightning_module:
            return function(*args)
        return strategy._forward_redirection(strategy.model, pl_module, "call_inside", function, *args)
