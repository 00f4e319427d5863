"""The contract between rooms: what a datamodule yields and what a planner hands to a diffusion transformer.

Letters, here and everywhere: B batch, L tokens, C width, T frames, Y/X rows/columns, S audio samples, K planned tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Planned tokens of both modalities (or ground-truth features), standardised, in time-row-column order.

    Args:
        video: Video tokens [B, K_v, C_v], K_v = N * h * w.
        audio: Audio tokens [B, K_a, C_a].
        video_grid: Keyframes, rows, columns (N, h, w).
        video_times: Time of each keyframe [N], in s; ``None`` spreads the keyframes over the clip end to end.
        audio_times: Time of each audio token [K_a], in s; ``None`` likewise.
    """

    video: Tensor
    audio: Tensor
    video_grid: tuple[int, int, int]
    video_times: Tensor | None = None
    audio_times: Tensor | None = None

    def roll(self, shift: int = 1) -> Plan:
        """The same plans, each given to another sample of the batch: the shuffled control.

        Raises:
            ValueError: If the batch has one sample, whose own plan would come back.
        """
        if len(self.video) < 2:
            raise ValueError("a shuffled plan needs at least two clips in a batch, got one, which would keep its own plan")
        return replace(self, video=self.video.roll(shift, 0), audio=self.audio.roll(shift, 0))

    def rows(self, start: int, stop: int | None) -> Plan:
        """The plans of some samples of the batch."""
        return replace(self, video=self.video[start:stop], audio=self.audio[start:stop])

    def to(self, device: torch.device | str, **kwargs: object) -> Plan:
        """Moves every tensor; Lightning calls this on what ``predict`` returns."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


@dataclass(eq=False)  # not frozen: strategies of half precision and ZeRO convert the tensors of a copy, field by field
class Batch:
    """A batch of clips. Fields a stage did not ask for are ``None``.

    Args:
        keys: Sample keys, one a clip.
        index: Global sample index within the epoch's order [B]; with ``epoch`` it seeds every draw.
        epoch: Epoch, counted from 0.
        video_prompts: What is seen, one text a clip.
        audio_prompts: What is heard, one text a clip.
        video_latents: [B, C, T, Y, X], normalised.
        audio_latents: [B, L, C], normalised.
        video_features: Raw perceiver features [B, K_v, C_v].
        audio_features: Raw perceiver features [B, K_a, C_a].
        video_plan: A planner's tokens, standardised [B, K_v, C_v].
        audio_plan: A planner's tokens, standardised [B, K_a, C_a].
        planner: Digest of the weights of the planner that made them.
        context: Text embeddings [B, L, C], zero-padded to ``clip.text_tokens``.
        frames: Pictures [B, T, Y, X, 3], uint8.
        waveform: Sound [B, S], in [-1, 1].
        has_video: Whether the clip has picture [B], bool; ``None`` = all. What it lacks is zeros in latents and features.
        has_audio: Whether the clip has sound [B], bool; ``None`` = all. Likewise.
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

    def __len__(self) -> int:
        return len(self.keys)

    def num_with(self, name: str) -> int:
        """How many clips have ``video`` or ``audio``."""
        has = {"video": self.has_video, "audio": self.has_audio}[name]
        return len(self) if has is None else int(has.sum())

    def first(self, count: int) -> Batch:
        """The first clips."""
        cut = {f.name: v[:count] for f in fields(self) if isinstance(v := getattr(self, f.name), (Tensor, list))}
        return replace(self, **cut)

    def to(self, device: torch.device | str, **kwargs: object) -> Batch:
        """Moves every tensor; Lightning calls this."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        pinned = {f.name: v.pin_memory() for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **pinned)
