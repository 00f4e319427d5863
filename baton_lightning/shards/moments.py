"""Mean and standard deviation of cached tensors, from sums over clips and shards, and checks whether they are plausible."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baton_lightning import atomic
from baton_lightning.plain_files import parse_json

STILL = 1e-4
"""Standard deviation below which a channel counts as constant."""
WILD = 30.0
"""Largest plausible standard deviation or absolute mean of normalised latents, which should have 1 and 0."""
TOLERANCE = 1e-3
"""Largest accepted difference of statistics, relative to the standard deviation. Sums in another order differ by less."""


@dataclass
class Moments:
    """Sums over clips, for every channel.

    Args:
        count: Number of values of each channel.
        total: Sum of the values [C].
        squares: Sum of their squares [C].
    """

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, tensor: Tensor, axis: int) -> None:
        """Adds a clip's tensor.

        Args:
            tensor: Tensor of any shape.
            axis: Axis of its channels.
        """
        values = tensor.double().movedim(axis, -1).flatten(0, -2)
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    def include(self, other: Moments) -> None:
        """Adds the sums of other clips."""
        self.count, self.total, self.squares = self.count + other.count, self.total + other.total, self.squares + other.squares

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total) / self.count

    @property
    def std(self) -> Tensor:
        return (torch.as_tensor(self.squares) / self.count - self.mean.square()).clamp(min=1e-12).sqrt()


def moments_of(clips: Iterable[Mapping[str, Tensor]]) -> dict[str, Moments]:
    """Moments of features, by modality.

    Args:
        clips: Modality -> features [K, C], for each clip in order.
    """
    made: dict[str, Moments] = {}
    for tensors in clips:
        for name, tensor in tensors.items():
            made.setdefault(name, Moments()).add(tensor, -1)
    return made


def moments_file(tar: Path) -> Path:
    """File that holds the moments of a tar's clips."""
    return tar.with_suffix(".moments.safetensors")


def write_moments(tar: Path, moments: Mapping[str, Moments], *, made_by: str, source: str) -> None:
    """Writes the moments of a shard atomically. Each modality has count, sums and sums of squares [3, C], float64.

    Args:
        tar: The shard of features.
        moments: Moments of its features, by modality.
        made_by: Recipe of the features.
        source: Digest of the clips from which the features were computed.
    """
    tensors = {
        name: torch.stack([torch.full_like(sums.total, sums.count), sums.total, sums.squares]) for name, sums in sorted(moments.items())
    }
    atomic.write_tensors(moments_file(tar), tensors, {"of": f"{made_by} {source}"}, several=True)


def read_moments(tar: Path, *, made_by: str, source: str) -> dict[str, Moments] | None:
    """Reads the file of :func:`write_moments`; ``None`` if it is missing or belongs to other features."""
    from safetensors import SafetensorError, safe_open

    if not moments_file(tar).is_file():
        return None
    try:
        with safe_open(moments_file(tar), "pt") as file:
            if (file.metadata() or {}).get("of") != f"{made_by} {source}":
                return None
            stacked = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return {name: Moments(int(sums[0, 0]), sums[1], sums[2]) for name, sums in stacked.items()}


def save_statistics(file: Path, sums: Mapping[str, Moments], provenance: Mapping[str, Any]) -> None:
    """Writes mean and standard deviation of each modality's features, with their provenance."""
    tensors = {
        f"{name}_{which}": value.float() for name, total in sums.items() for which, value in (("mean", total.mean), ("std", total.std))
    }
    atomic.write_tensors(file, tensors, {"told": json.dumps(provenance, sort_keys=True)}, several=True)


def read_provenance(file: Path) -> dict[str, Any]:
    """Provenance in a file of :func:`save_statistics`; empty for files of older versions.

    Raises:
        ValueError: If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as statistics:
            provenance = parse_json((statistics.metadata() or {}).get("told", "{}"), str(file))
    except SafetensorError as error:
        raise ValueError(f"data: {file} must hold the statistics of features, and is damaged ({error}); make it again") from error
    return provenance if isinstance(provenance, dict) else {}


def implausible_statistics(kind: str, name: str, moments: Moments) -> list[str]:
    """Statistics that no working network gives, as texts.

    Args:
        kind: ``latents`` or ``features``.
        name: ``video`` or ``audio``.
        moments: Moments over all clips of a split that have this modality.
    """
    std, found = moments.std, []
    still = int((std < STILL).sum())
    if still == len(std):
        found.append(f"{name} {kind} are constant over all clips; the network saw no {name}, or does not work")
    elif kind == "features" and still > len(std) / 2:
        found.append(f"{still} of {len(std)} channels of the {name} features are constant over all clips")
    spread, offset = float(std.square().mean().sqrt()), float(moments.mean.abs().max())
    if kind == "latents" and max(spread, offset) > WILD:
        found.append(
            f"{name} latents have standard deviation {spread:.3g} and channel means up to {offset:.3g}; normalised ones have 1 and 0"
        )
    return found


def statistics_deviations(file: Path, moments: dict[str, Moments]) -> list[str]:
    """Differences between a statistics file and the cached features, as texts.

    Args:
        file: ``features.stats.safetensors``.
        moments: Moments of the features of one split, by modality.
    """
    from safetensors.torch import load_file

    if not file.is_file():
        return ["is missing, although the cache is recorded as finished"]
    known, found = load_file(file), []
    for name, computed in moments.items():
        if f"{name}_mean" not in known or f"{name}_std" not in known:
            found.append(f"has no {name} statistics")
            continue
        scale = computed.std.clamp(min=1e-6)
        for value, truth in ((known[f"{name}_mean"], computed.mean), (known[f"{name}_std"], computed.std)):
            if value.shape != truth.shape:
                found.append(f"has {list(value.shape)} {name} channels, the features have {list(truth.shape)}")
                break
            error = float(((value.double() - truth).abs() / scale).max())
            if not error < TOLERANCE:
                found.append(f"{name} statistics are not those of the cached features: they differ by {error:.3g} standard deviations")
                break
    return found
