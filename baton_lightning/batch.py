"""Data types shared by the packages: a batch of a datamodule, and a plan for the diffusion transformer.

Letters, here and everywhere: B batch, L tokens, C width, T frames, Y/X rows/columns, S audio samples, K planned tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Planned tokens (or ground-truth features) of both modalities, standardised, in time-row-column order.

    Args:
        video: Video tokens [B, K_v, C_v], K_v = N * h * w.
        audio: Audio tokens [B, K_a, C_a].
        video_grid: Keyframes, rows, columns (N, h, w).
        video_times: Time of each keyframe [N], in s; ``None`` spaces the keyframes evenly from the clip's first to its last latent frame.
        audio_times: Time of each audio token [K_a], in s; ``None`` spaces them evenly in the same way.
    """

    video: Tensor
    audio: Tensor
    video_grid: tuple[int, int, int]
    video_times: Tensor | None = None
    audio_times: Tensor | None = None

    def roll(self, shift: int = 1) -> Plan:
        """The same plans, each assigned to another sample of the batch (the "shuffled" control).

        Raises:
            ValueError: If the batch has one sample, which would keep its own plan.
        """
        if len(self.video) < 2:
            raise ValueError("a shuffled plan needs at least two clips in a batch, got one, which would keep its own plan")
        return replace(self, video=self.video.roll(shift, 0), audio=self.audio.roll(shift, 0))

    def rows(self, start: int, stop: int | None) -> Plan:
        """The plans of samples ``start`` to ``stop`` of the batch."""
        return replace(self, video=self.video[start:stop], audio=self.audio[start:stop])

    def to(self, device: torch.device | str, **kwargs: object) -> Plan:
        """A copy with every tensor on a device; Lightning calls this on the results of ``predict``."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


@dataclass(eq=False)  # not frozen: strategies of half precision and ZeRO convert the tensors of a copy, field by field
class Batch:
    """A batch of clips. Fields that a stage does not request are ``None``.

    Args:
        keys: Sample keys, one per clip.
        index: Global sample index within the epoch's order [B]; with ``epoch`` it seeds every draw.
        epoch: Epoch, counted from 0.
        video_prompts: Description of the picture, one text per clip.
        audio_prompts: Description of the sound, one text per clip.
        video_latents: [B, C, T, Y, X], normalised.
        audio_latents: [B, L, C], normalised.
        video_features: Raw perceiver features [B, K_v, C_v].
        audio_features: Raw perceiver features [B, K_a, C_a].
        video_plan: A planner's tokens, standardised [B, K_v, C_v].
        audio_plan: A planner's tokens, standardised [B, K_a, C_a].
        planner: Digest of the weights of the planner that computed ``video_plan`` and ``audio_plan``.
        context: Text embeddings [B, L, C], zero-padded to ``clip.text_tokens``.
        frames: Pictures [B, T, Y, X, 3], uint8.
        waveform: Sound [B, S], in [-1, 1].
        has_video: Presence mask: whether the clip has a picture [B], bool; ``None`` = all. Absent latents and features are zeros.
        has_audio: Presence mask: whether the clip has sound [B], bool; ``None`` = all. Absent latents and features are zeros.
        geometry: Name of the geometry of all clips, see :meth:`~baton_lightning.clip.ClipSpec.at`; ``None`` = the run's first one.
    """

    keys: list[str]
    index: Tensor
    epoch: int
    video_prompts: list[str]
    audio_prompts: list[str]
    video_latents: Tensor | None = None
    audio_latents: Tensor | None = None
    video_features: Tensor | None = None
    audio_features: Tensor | None = None
    video_plan: Tensor | None = None
    audio_plan: Tensor | None = None
    planner: str | None = None
    context: Tensor | None = None
    frames: Tensor | None = None
    waveform: Tensor | None = None
    has_video: Tensor | None = None
    has_audio: Tensor | None = None
    geometry: str | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def num_with(self, name: str) -> int:
        """Number of clips that have the modality ``video`` or ``audio``."""
        has = {"video": self.has_video, "audio": self.has_audio}[name]
        return len(self) if has is None else int(has.sum())

    def first(self, count: int) -> Batch:
        """A batch of the first ``count`` clips."""
        cut: dict[str, Any] = {f.name: v[:count] for f in fields(self) if isinstance(v := getattr(self, f.name), (Tensor, list))}
        return replace(self, **cut)

    def to(self, device: torch.device | str, **kwargs: object) -> Batch:
        """A copy with every tensor on a device; Lightning calls this."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        pinned = {f.name: v.pin_memory() for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **pinned)
