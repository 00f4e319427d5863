"""Caching what frozen networks see: latents, perceptual features and text embeddings of every clip, made once (a `predict` run)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec

NETWORKS = ("video_codec", "audio_codec", "video_perceiver", "audio_perceiver", "text_encoder")


class Encode(LightningModule):
    """Runs the frozen networks over clips.

    Args:
        clip: Geometry of the clips.
        video_codec: Factory of the video codec.
        audio_codec: Factory of the audio codec.
        video_perceiver: Factory of the perceiver of keyframes (Baton: SigLIP2).
        audio_perceiver: Factory of the perceiver of sound (Baton: WavTokenizer).
        text_encoder: Factory of the text encoder (Ovi: umT5). It reads both prompts as one text.
        seed: Part of every stage's interface; nothing is drawn here.
    """

    def __init__(
        self,
        clip: ClipSpec,
        video_codec: Callable[[], nn.Module],
        audio_codec: Callable[[], nn.Module],
        video_perceiver: Callable[[], nn.Module],
        audio_perceiver: Callable[[], nn.Module],
        text_encoder: Callable[[], nn.Module],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.makers = dict(zip(NETWORKS, (video_codec, audio_codec, video_perceiver, audio_perceiver, text_encoder), strict=True))

    def configure_model(self) -> None:
        if not hasattr(self, "video_codec"):
            for name, make in self.makers.items():
                setattr(self, name, make())

    @property
    def recipe(self) -> str:
        """Digest of the geometry and of every network's class and weights: what decides the cached tensors."""
        digest = hashlib.sha256(repr(self.clip).encode())
        for name in NETWORKS:
            network = getattr(self, name)
            digest.update(type(network).__qualname__.encode())
            for key, tensor in sorted(network.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
        return digest.hexdigest()

    @property
    def keyframes(self) -> list[int]:
        """Frames nearest to the keyframes' times."""
        return [min(round(t * self.clip.fps), self.clip.num_frames - 1) for t in self.clip.keyframe_times]

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, dict[str, Tensor | list[Tensor]]]:
        """Tensors of a batch, by kind of cache and name.

        Raises:
            ValueError: If a network's output does not have the clip's token counts and widths.
        """
        assert batch.frames is not None and batch.waveform is not None
        features = self.video_perceiver(batch.frames[:, self.keyframes]).flatten(1, 3)
        sound = self.audio_perceiver(batch.waveform, self.clip.sample_rate)
        latents = self.video_codec.encode(batch.frames)
        heard = self.audio_codec.encode(batch.waveform)
        clip = self.clip
        for name, got, wanted in (
            ("video features", features, (clip.num_video_planned, clip.video_plan_width)),
            ("audio features", sound, (clip.num_audio_planned, clip.audio_plan_width)),
            ("video latents", latents, (clip.video_channels, *clip.latent_grid)),
            ("audio latents", heard, (clip.num_audio_latents, clip.audio_channels)),
        ):
            if tuple(got.shape[1:]) != wanted:
                raise ValueError(f"encode: {name} must be {list(wanted)} a clip, the network gives {list(got.shape[1:])}; change the network or the clip section")
        texts = [f"{video} {audio}" for video, audio in zip(batch.video_prompts, batch.audio_prompts, strict=True)]
        return {
            "latents": {"video": latents, "audio": heard},
            "features": {"video": features, "audio": sound},
            "text": {"context": self.text_encoder(texts)},
        }
