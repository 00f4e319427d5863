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
from callbacks.pictures import frame_strips, gif, spectrograms


class SampleLogger(Callback):
    """Generates clips for the first validation prompts of stage 3, of each geometry; for other modules it does nothing.

    All ranks sample the same clips, with the prompts of rank 0, because under ZeRO-3 every rank holds a part of every layer. They compute
    in the run's precision, as in a validation step. Rank 0 decodes and writes. TensorBoard shows the true clip, through the codecs, below.

    Args:
        num_samples: Clips per validation and geometry; 0 = none.
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
        missing = self.num_samples - sum(len(other) for other in self.batches if other.geometry == batch.geometry)
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
                    self._write(
                        trainer,
                        generator,
                        batch,
                        *generator.decode(*latents, batch.geometry),
                        *true_clips(generator, batch, pl_module.device),
                    )
        self.batches = []

    def _write(
        self,
        trainer: Trainer,
        generator: Generator,
        batch: Batch,
        frames: Tensor,
        waveform: Tensor,
        true_frames: Tensor | None,
        true_waveform: Tensor | None,
    ) -> None:
        folder = Path(trainer.default_root_dir) / "samples" / f"step-{trainer.global_step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        clip = generator.model.clip.at(batch.geometry)
        for i, clip_key in enumerate(batch.keys):
            key = clip_key if batch.geometry is None else f"{clip_key}-{batch.geometry}"
            generator.write(folder / f"{require_name(key, 'the key of a clip')}.mp4", frames[i], waveform[i])
            shown, heard = {"generated": frames[i].cpu().numpy()}, {"generated": waveform[i].float().cpu().numpy()}
            if true_frames is not None and (batch.has_video is None or batch.has_video[i]):
                shown["true"] = true_frames[i].cpu().numpy()
            if true_waveform is not None and (batch.has_audio is None or batch.has_audio[i]):
                heard["true"] = true_waveform[i].float().cpu().numpy()
            self._log(trainer, clip, key, shown, heard, f"{batch.video_prompts[i]} {batch.audio_prompts[i]}")

    def _log(self, trainer: Trainer, clip: ClipSpec, key: str, shown: dict[str, Any], heard: dict[str, Any], prompt: str) -> None:
        writer = getattr(trainer.logger, "experiment", None)
        if writer is None or not hasattr(writer, "add_image"):
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        step, tag = trainer.global_step, f"samples/{key}"
        writer.add_image(f"{tag}/frames", frame_strips(shown), step, dataformats="HWC")
        writer.add_image(f"{tag}/spectrogram", spectrograms(heard, clip.sample_rate), step, dataformats="HWC")
        height, width = 128, round(128 * clip.width / clip.height)
        moving = Summary.Image(encoded_image_string=gif(shown["generated"], clip.fps, height), height=height, width=width, colorspace=3)
        writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=f"{tag}/moving", image=moving)]), step)
        writer.add_audio(f"{tag}/sound", heard["generated"][None], step, sample_rate=clip.sample_rate)
        writer.add_text(f"{tag}/prompt", prompt, step)


def true_clips(generator: Generator, batch: Batch, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """Frames and waveforms of the batch's own latents, through the codecs; ``None`` without latents."""
    if batch.video_latents is None or batch.audio_latents is None:
        return None, None
    return generator.decode(batch.video_latents.to(device), batch.audio_latents.to(device), batch.geometry)


def as_in_validation(trainer: Trainer, pl_module: LightningModule, function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in the way the strategy calls a validation step: through its wrapper module, in the run's precision."""
    strategy = trainer.strategy
    with strategy.precision_plugin.val_step_context():
        if strategy.model is strategy.lightning_module:
            return function(*args)
        return strategy._forward_redirection(strategy.model, pl_module, "call_inside", function, *args)
