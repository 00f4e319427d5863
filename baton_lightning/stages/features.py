"""Perceptual features of a stage's batches: from the cache, or computed from media by the frozen perceivers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from baton_lightning import hints
from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.freeze import own_precision
from baton_lightning.frozen.identity import describe
from baton_lightning.shards.stored_clip import tensor_differences

PERCEIVERS = ("video_perceiver", "audio_perceiver")


def keyframes(clip: ClipSpec) -> list[int]:
    """Indices of the frames nearest to the keyframes' times; of two equally near, the earlier one."""
    last = clip.num_frames - 1
    return [min(range(last + 1), key=lambda i: abs(i / clip.fps - t)) for t in clip.keyframe_times]


def perceive(clip: ClipSpec, video: nn.Module, audio: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Raw features of a batch's modalities: ``video`` [B, K_v, C_v] of its keyframes, ``audio`` [B, K_a, C_a] of its sound.

    Args:
        clip: Geometry of the clips.
        video: Perceiver of pictures.
        audio: Perceiver of sound.
        batch: Clips with media.

    Raises:
        ValueError: If the counts or widths of a perceiver's features differ from the clip section.
    """
    features: dict[str, Tensor] = {}
    if batch.frames is not None:
        features["video"] = video(batch.frames[:, keyframes(clip)]).flatten(1, 3)
        require_shape("video_perceiver", features["video"], (clip.num_video_planned, clip.video_plan_width))
    if batch.waveform is not None:
        features["audio"] = audio(batch.waveform, clip.sample_rate)
        require_shape("audio_perceiver", features["audio"], (clip.num_audio_planned, clip.audio_plan_width))
    return features


def require_shape(network: str, got: Tensor, shape: tuple[int, ...]) -> None:
    """Checks the shape of a network's output.

    Raises:
        ValueError: If a clip's tensor has another shape.
    """
    if tuple(got.shape[1:]) != shape:
        raise ValueError(
            f"encode: {network} must give {list(shape)} a clip (the clip section), got {list(got.shape[1:])}; "
            "change the network or the clip section"
        )


class OnlineFeatures:
    """Features computed in every step by the frozen perceivers, instead of a cache (50 MB per clip at the paper's size).

    The perceivers are not submodules, so they are in no checkpoint, weights file or optimiser. Each computes in the type of its own
    weights. Batches must have ``media``. Statistics of the features are read from a cache, or from a file of
    :class:`~baton_lightning.stages.statistics.FeatureStatistics`.

    Args:
        clip: Geometry of the clips.
        video_perceiver: Factory of the perceiver of keyframes.
        audio_perceiver: Factory of the perceiver of sound.
    """

    def __init__(self, clip: ClipSpec, video_perceiver: Callable[[], nn.Module], audio_perceiver: Callable[[], nn.Module]) -> None:
        self.clip = clip
        self.makers = (video_perceiver, audio_perceiver)

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """The perceivers, built at the first access."""
        return {name: make().requires_grad_(False).eval() for name, make in zip(PERCEIVERS, self.makers, strict=True)}

    @torch.no_grad()
    @own_precision()
    def fill(self, batch: Batch) -> None:
        """Sets the features of a batch, in place, so that later users of the batch have them too; zeros for an absent modality.

        Raises:
            ValueError: If the batch has no media.
        """
        if batch.frames is None and batch.waveform is None:
            raise ValueError("features online need frames and waveform, the batch has none; add `media` to data.init_args.fields")
        device, clip = batch.index.device, self.clip.at(batch.geometry)
        video, audio = (self.networks[name].to(device) for name in PERCEIVERS)
        made = perceive(clip, video, audio, batch)
        absent = {"video": (clip.num_video_planned, clip.video_plan_width), "audio": (clip.num_audio_planned, clip.audio_plan_width)}
        for name, shape in absent.items():
            features = made.get(name)
            setattr(batch, f"{name}_features", torch.zeros(len(batch), *shape, device=device) if features is None else features.float())

    def made_by(self, clip: ClipSpec) -> dict[str, Any]:
        """Provenance of these features: geometry, and digests of the perceivers."""
        return {"clip": clip.to_dict()} | {name: describe(network)["sha256"] for name, network in self.networks.items()}

    def require_statistics(self, known: dict[str, Any], geometry: str | None = None) -> None:
        """Refuses statistics of other features.

        Args:
            known: Provenance of the statistics.
            geometry: Name of the geometry of their clips; ``None`` = the first one.

        Raises:
            ValueError: If the perceivers or the geometry differ, or the provenance is empty.
        """
        clip = self.clip.at(geometry)
        own = self.made_by(clip)
        differs = [name for name in PERCEIVERS if known.get(name) != own[name]]
        differs += tensor_differences(clip, known.get("clip", {})) if not differs else []
        if differs:
            raise ValueError(
                f"the statistics of features beside the data must be of this run's perceivers and geometry, but differ in {differs[0]}; "
                f"make them with {hints.command('predict', '-c', hints.experiment_file(hints.STATISTICS))}"
            )


def features_of(batch: Batch, online: OnlineFeatures | None = None) -> tuple[Tensor, Tensor]:
    """Video and audio features of a batch.

    Args:
        batch: Clips with features, or with media for ``online``.
        online: Computes missing features; ``None`` = they must be cached.

    Raises:
        ValueError: If the batch has no features.
    """
    if batch.video_features is None and online is not None:
        online.fill(batch)
    if batch.video_features is None or batch.audio_features is None:
        raise ValueError("this stage reads cached features, the batch has none; add `features` to data.init_args.fields")
    return batch.video_features, batch.audio_features
