"""Tasks: which parts of a clip are generated, given or absent. Training, logged samples and `generate` use the same definition.

tasks:
  - {share: 0.5}                                # both modalities from text and plan
  - {share: 0.2, first_frame: 1.0}              # image to video and sound
  - {share: 0.1, video: given}                  # sound for a picture
  - {share: 0.1, audio: given}                  # picture for a sound
  - {share: 0.1, prefix: 0.5, mask: 0.5}        # continuation, inpainting
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baton_lightning.clip import ClipSpec
from baton_lightning.flow import draws
from baton_lightning.flow.given import MODALITIES, NOTHING, Given, Held

STATES = ("generated", "given", "absent")
CONDITIONS = ("first_frame", "last_frame", "prefix", "suffix", "mask")
SHORTEST = 0.25
"""Shortest span of ``prefix``, ``suffix`` and ``mask``, as a share of the clip's duration; the longest is 1 - ``SHORTEST``."""


@dataclass(frozen=True)
class Task:
    """One task of a mix.

    Args:
        share: Share of the clips with this task, relative to the shares of the other tasks.
        video: ``generated``; ``given``: known and clean; or ``absent``: held at noise, without a loss.
        audio: As ``video``.
        first_frame: Probability, in [0, 1], that the first latent frame of a generated video is known.
        last_frame: Probability that its last latent frame is known.
        prefix: Probability that the start of video and sound is known, for a span of random length.
        suffix: Probability that the end of video and sound is known, for a span of random length.
        mask: Probability that everything is known except a random box of the video in space and time, and the sound of the same span.

    Raises:
        ValueError: If a state is unknown, a probability or the share is out of range, or nothing is generated.
    """

    share: float = 1.0
    video: str = "generated"
    audio: str = "generated"
    first_frame: float = 0.0
    last_frame: float = 0.0
    prefix: float = 0.0
    suffix: float = 0.0
    mask: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and self.share > 0):
            raise ValueError(f"a task's share must be positive, got {self.share}")
        for name in MODALITIES:
            if getattr(self, name) not in STATES:
                raise ValueError(f"a task's {name} must be one of {', '.join(STATES)}, got {getattr(self, name)!r}")
        if "generated" not in (self.video, self.audio):
            raise ValueError(f"a task must generate video or audio, got video {self.video} and audio {self.audio}")
        for name in CONDITIONS:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"a task's {name} must be a probability in [0, 1], got {getattr(self, name)}")

    @property
    def plain(self) -> bool:
        """Whether all latents are always generated."""
        return (self.video, self.audio) == ("generated", "generated") and not any(getattr(self, name) for name in CONDITIONS)


@dataclass
class Known:
    """Known latents of one clip.

    Args:
        video: Which video latents are known [T, Y, X], bool.
        audio: Which audio latents are known [L], bool.
        absent: Absent modalities.
    """

    video: Tensor
    audio: Tensor
    absent: tuple[str, ...] = ()

    @classmethod
    def nothing(cls, clip: ClipSpec) -> Known:
        """Masks of a clip without known latents."""
        return cls(torch.zeros(clip.latent_grid, dtype=torch.bool), torch.zeros(clip.num_audio_latents, dtype=torch.bool))

    def span(self, clip: ClipSpec, start: float, stop: float) -> tuple[slice, slice]:
        """Indices of the video and audio latents that lie entirely in a time span.

        Args:
            clip: Geometry.
            start: Start, in s.
            stop: End, in s.

        Note:
            Latent frame 0 is the first frame alone. Latent frame k ends with frame k * stride. Video spans consist of whole patches.
        """
        stride, patch = clip.video_stride[0] / clip.fps, clip.video_patch[0]
        frames = [k for k in range(len(self.video)) if max(k - 1, 0) * stride >= start - 1e-6 and k * stride <= stop + 1e-6]
        first, end = (frames[0], frames[-1] + 1) if frames else (0, 0)
        first, end = -(-first // patch) * patch, end // patch * patch if end < len(self.video) else end
        rate = clip.audio_latent_rate
        low, high = math.ceil(start * rate - 1e-6), math.floor(stop * rate + 1e-6) if stop < clip.seconds - 1e-6 else len(self.audio)
        return slice(first, max(first, end)), slice(low, max(low, high))


def known_of(task: Task, clip: ClipSpec, draw: Sequence[float]) -> Known:
    """Known latents of a clip with a task.

    Args:
        task: The task.
        clip: Geometry.
        draw: Uniform numbers in [0, 1): one for each condition in the order of :data:`CONDITIONS`, two for the span, four for the box.
    """
    known = Known.nothing(clip)
    happens = {name: draw[i] < getattr(task, name) for i, name in enumerate(CONDITIONS)}
    length, place = (SHORTEST + (1 - 2 * SHORTEST) * draw[5]) * clip.seconds, draw[6]
    patch = clip.video_patch[0]
    if happens["first_frame"]:
        known.video[:patch] = True
    if happens["last_frame"]:
        known.video[-patch:] = True
    for name, start, stop in (("prefix", 0.0, length), ("suffix", clip.seconds - length, clip.seconds)):
        if happens[name]:
            frames, sound = known.span(clip, start, stop)
            known.video[frames], known.audio[sound] = True, True
    if happens["mask"]:
        start = place * (clip.seconds - length)
        frames, sound = known.span(clip, start, start + length)
        box = [slice_of(draw[7 + 2 * axis], draw[8 + 2 * axis], clip.token_grid[1 + axis], clip.video_patch[1 + axis]) for axis in (0, 1)]
        picture, heard = torch.ones_like(known.video), torch.ones_like(known.audio)
        picture[(frames, *box)], heard[sound] = False, False
        known.video |= picture
        known.audio |= heard
    for name in MODALITIES:
        if (state := getattr(task, name)) != "generated":
            getattr(known, name)[...] = state == "given"
    known.absent = tuple(name for name in MODALITIES if getattr(task, name) == "absent")
    return known


def slice_of(size: float, place: float, tokens: int, patch: int) -> slice:
    """A random span of latents that consists of one or more whole patches.

    Args:
        size: Uniform number in [0, 1) that determines the length.
        place: Uniform number in [0, 1) that determines the start.
        tokens: Number of patches along the axis.
        patch: Latents per patch.
    """
    length = 1 + int(size * tokens)
    start = int(place * (tokens - length + 1))
    return slice(start * patch, (start + length) * patch)


def given_of(
    known: Sequence[Known] | None,
    clean: Mapping[str, Tensor],
    noise: Mapping[str, Tensor],
    present: Mapping[str, Tensor | None] | None = None,
) -> Given:
    """Held latents of a batch.

    Args:
        known: Known latents of every clip; ``None`` = nothing is known.
        clean: Modality -> clean latents.
        noise: Modality -> noise, the values of an absent modality.
        present: Modality -> which clips have it [B], bool; ``None`` = all.

    Returns:
        Held latents. A modality without any is ``None``.
    """
    held: dict[str, Held] = {}
    for name in MODALITIES:
        latents, size = clean[name], len(clean[name])
        lacks = torch.zeros(size, dtype=torch.bool)
        if present is not None and (has := present[name]) is not None:
            lacks |= ~has.cpu()
        if known is not None:
            lacks |= torch.tensor([name in clip.absent for clip in known])
            masks = torch.stack([getattr(clip, name) for clip in known])
        else:
            masks = torch.zeros(size, *(latents.shape[2:] if latents.ndim == 5 else latents.shape[1:2]), dtype=torch.bool)
        if not (masks.any() or lacks.any()):
            continue
        masks = masks & ~lacks.view(-1, *[1] * (masks.ndim - 1))
        fixed = masks | lacks.view(-1, *[1] * (masks.ndim - 1))
        num_free, device = int((~fixed).flatten(1).any(1).sum()), latents.device
        values = torch.where(lacks.to(device).view(-1, *[1] * (latents.ndim - 1)), noise[name], latents)
        held[name] = Held(values, masks.to(device), fixed.to(device), num_free)
    return Given(held.get("video"), held.get("audio")) if held else NOTHING


class TaskMix:
    """A mix of tasks. The task and the known latents of each clip are drawn by counter.

    Args:
        tasks: The tasks; an empty list = everything is generated.
        clip: Geometries of the clips.
        seed: Seed of the draws.
    """

    def __init__(self, tasks: Sequence[Task], clip: ClipSpec, seed: int) -> None:
        self.tasks, self.clip, self.seed = tuple(tasks) or (Task(),), clip, seed
        total = sum(task.share for task in self.tasks)
        self.upper = [sum(task.share for task in self.tasks[: i + 1]) / total for i in range(len(self.tasks))]

    @property
    def plain(self) -> bool:
        """Whether all tasks are plain, see :attr:`Task.plain`."""
        return all(task.plain for task in self.tasks)

    def draw(self, index: Tensor, epoch: int, geometry: str | None = None) -> list[Known]:
        """Draws the known latents of each clip.

        Args:
            index: Global index of each sample within the epoch [B].
            epoch: Epoch, counted from 0.
            geometry: Name of the clips' geometry; ``None`` = the first one.
        """
        clip = self.clip.at(geometry)
        drawn = draws.draw_uniform((12,), seed=self.seed, epoch=epoch, index=index, purpose="task").tolist()
        return [known_of(self.task_at(row[0]), clip, row[1:]) for row in drawn]

    def task_at(self, place: float) -> Task:
        """The task for a uniform number in [0, 1): the inverse of the cumulative distribution of shares."""
        return next((task for task, upper in zip(self.tasks, self.upper, strict=True) if place < upper), self.tasks[-1])
