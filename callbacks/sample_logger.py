"""Generated clips after every validation: mp4s with sound on disk; pictures, sound and prompts in TensorBoard."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from baton_lightning.batch import Batch
from baton_lightning.media import write_mp4
from callbacks.pictures import frame_strip, gif, spectrogram


class SampleLogger(Callback):
    """Asks the module to ``generate(batch) -> (frames, waveform)`` for the first validation clips; modules that cannot are left alone.

    Args:
        num_samples: Clips a validation; 0 logs none.
    """

    def __init__(self, num_samples: int = 2) -> None:
        self.num_samples = num_samples
        self.batch: Batch | None = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.batch = batch

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(hasattr(parameter, "ds_id") for parameter in pl_module.parameters()):
            return  # parameters are shards, and one rank alone cannot sample; `generate` does, from the finished run
        wanted = self.num_samples and not trainer.sanity_checking and trainer.is_global_zero and hasattr(pl_module, "generate")
        if not wanted or self.batch is None:
            return
        batch = first(self.batch, self.num_samples)
        with torch.no_grad():
            frames, waveform = pl_module.generate(batch)  # type: ignore[operator]
        folder = Path(trainer.default_root_dir) / "samples" / f"step-{trainer.global_step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, key in enumerate(batch.keys):
            self._log(
                trainer, pl_module, folder / f"{key}.mp4", frames[i], waveform[i], f"{batch.video_prompts[i]} {batch.audio_prompts[i]}"
            )
        self.batch = None

    def _log(self, trainer: Trainer, pl_module: LightningModule, file: Path, frames: Tensor, waveform: Tensor, prompt: str) -> None:
        pictures, sound = frames.cpu().numpy(), waveform.float().cpu().numpy()
        clip = pl_module.clip
        write_mp4(file, pictures, clip.fps, sound, clip.sample_rate)
        writer = getattr(trainer.logger, "experiment", None)
        if writer is None or not hasattr(writer, "add_image"):
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        step, tag = trainer.global_step, f"samples/{file.stem}"
        writer.add_image(f"{tag}/frames", frame_strip(pictures), step, dataformats="HWC")
        writer.add_image(f"{tag}/spectrogram", spectrogram(sound, clip.sample_rate), step, dataformats="HWC")
        moving = Summary.Image(encoded_image_string=gif(pictures, clip.fps), height=128, width=128, colorspace=3)
        writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=f"{tag}/moving", image=moving)]), step)
        writer.add_audio(f"{tag}/sound", sound[None], step, sample_rate=clip.sample_rate)
        writer.add_text(f"{tag}/prompt", prompt, step)


def first(batch: Batch, count: int) -> Batch:
    """The first clips of a batch."""
    cut = {f.name: v[:count] for f in fields(batch) if isinstance(v := getattr(batch, f.name), (Tensor, list))}
    return replace(batch, **cut)
