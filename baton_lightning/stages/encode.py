"""Caching of latents, perceptual features and text context of clips, computed by frozen networks (a `predict` run)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.freeze import own_precision
from baton_lightning.frozen.identity import describe
from baton_lightning.shards.format import CACHES
from baton_lightning.stages.features import PERCEIVERS, perceive, require_shape

NETWORKS = ("video_codec", "audio_codec", "video_perceiver", "audio_perceiver", "text_encoder")


class Encode(LightningModule):
    """Runs the frozen networks over clips. Each computes in the type of its own weights, independent of the trainer's precision.

    Args:
        clip: Geometry of the clips.
        video_codec: Factory of the video codec.
        audio_codec: Factory of the audio codec.
        video_perceiver: Factory of the perceiver of keyframes (Baton: SigLIP2).
        audio_perceiver: Factory of the perceiver of sound (Baton: WavTokenizer).
        text_encoder: Factory of the text encoder (Ovi: umT5), which gets both prompts as one text.
        dtype: Type of the stored tensors. Features are stored before standardisation, so in bfloat16 a channel whose mean is 30 standard
            deviations from 0 has a rounding error of 4 % of its standard deviation.
        seed: Unused; part of every stage's interface.
    """

    kinds = CACHES
    reads = ("media",)

    def __init__(
        self,
        clip: ClipSpec,
        video_codec: Callable[[], nn.Module],
        audio_codec: Callable[[], nn.Module],
        video_perceiver: Callable[[], nn.Module],
        audio_perceiver: Callable[[], nn.Module],
        text_encoder: Callable[[], nn.Module],
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip, self.cache_dtype = clip, getattr(torch, dtype)
        self.makers = dict(zip(NETWORKS, (video_codec, audio_codec, video_perceiver, audio_perceiver, text_encoder), strict=True))

    def configure_model(self) -> None:
        """Builds the networks at the first call."""
        if not hasattr(self, "video_codec"):
            for name, make in self.makers.items():
                setattr(self, name, make().requires_grad_(False).eval())

    # ---- what made the cache
    @cached_property
    def networks(self) -> dict[str, dict[str, Any]]:
        """Class, settings and digest of the weights of every network."""
        return {name: describe(getattr(self, name)) for name in NETWORKS}

    def recipe(self, clip: ClipSpec) -> str:
        """Digest of geometry, type and networks, which determine a clip's cached tensors."""
        content = [clip.to_dict(), str(self.cache_dtype), self.networks]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def record(self, clip: ClipSpec) -> dict[str, Any]:
        """Content of the cache's record besides the recipe."""
        return {"clip": clip.to_dict(), "networks": self.networks}

    def perceivers(self, clip: ClipSpec) -> dict[str, Any]:
        """Provenance of the features' statistics."""
        return {"clip": clip.to_dict()} | {name: self.networks[name]["sha256"] for name in PERCEIVERS}

    # ---- tensors
    @torch.no_grad()
    @own_precision()
    def predict_step(self, batch: Batch, batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, dict[str, Sequence[Tensor]]]:
        """Tensors of a batch, of its modalities: kind of cache -> name -> one tensor per clip.

        Raises:
            ValueError: If the batch has no media, its sound is not float32, or the output of a network has another shape than the clip
                section requires.
        """
        if batch.frames is None and batch.waveform is None:
            raise ValueError("encode reads frames and waveform, the batch has none; run it with `predict` on a set of clips")
        if batch.waveform is not None and batch.waveform.dtype != torch.float32:
            raise ValueError(
                f"encode reads sound in float32, got {batch.waveform.dtype}; set trainer.precision to 32-true and each network's own dtype"
            )
        clip = self.clip.at(batch.geometry)
        context = self.text_encoder.context(batch.video_prompts, batch.audio_prompts)
        latents: dict[str, Tensor] = {}
        features = perceive(clip, self.video_perceiver, self.audio_perceiver, batch)
        if batch.frames is not None:
            latents["video"] = self.video_codec.encode(batch.frames)
            require_shape("video_codec", latents["video"], (clip.video_channels, *clip.latent_grid))
        if batch.waveform is not None:
            latents["audio"] = self.audio_codec.encode(batch.waveform)
            require_shape("audio_codec", latents["audio"], (clip.num_audio_latents, clip.audio_channels))
        rows = max(len(row) for row in context)
        if context[0].shape[1] != clip.text_width or rows > clip.text_tokens:
            raise ValueError(
                f"encode: text_encoder must give at most {clip.text_tokens} rows of width {clip.text_width} (clip.text_tokens, "
                f"clip.text_width), got {rows} of width {context[0].shape[1]}; change the network or the clip section"
            )
        kinds: dict[str, dict[str, Sequence[Tensor]]] = {"latents": latents, "features": features, "text": {"context": context}}
        return {k: {name: [t.to(self.cache_dtype) for t in tensors] for name, tensors in named.items()} for k, named in kinds.items()}
