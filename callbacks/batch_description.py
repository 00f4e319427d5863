"""Descriptions of a batch for error messages: key, shard, flow time and modalities of its clips."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from baton_lightning.batch import Batch

INPUTS = ("video_latents", "audio_latents", "video_features", "audio_features", "context")


def describe(trainer: Trainer, module: LightningModule, batch: Batch | None, max_clips: int = 4) -> str:
    """Clips of a batch with shard, flow time and modalities; clips with tensors that are not finite come first.

    Args:
        trainer: Provides the shards.
        module: Provides the flow times, if it draws any.
        batch: The batch.
        max_clips: Largest number of clips to describe.
    """
    if batch is None:
        return "no clips yet"
    invalid = [not_finite(batch, i) for i in range(len(batch))]
    times = flow_times(module, batch)
    facts = [[f"t {times[i]:.3f}" if times is not None else "", modalities(batch, i), invalid[i]] for i in range(len(batch))]
    return join_descriptions(trainer, batch.keys, facts, sorted(range(len(batch)), key=lambda i: not invalid[i])[:max_clips])


def names(trainer: Trainer, batch: Batch | None, max_clips: int = 4) -> str:
    """Clips of a batch and their shards. Tensors are not read, because this would block if the device hangs."""
    if batch is None:
        return "no clips yet"
    return join_descriptions(trainer, batch.keys, [[] for _ in batch.keys], list(range(len(batch)))[:max_clips])


def join_descriptions(trainer: Trainer, keys: list[str], facts: list[list[str]], chosen: list[int]) -> str:
    """The chosen clips with shards and facts, and the number of other clips."""
    shards = shards_of(trainer, keys)
    descriptions = []
    for i in chosen:
        known = [fact for fact in (shards.get(keys[i], ""), *facts[i]) if fact]
        descriptions.append(keys[i] + (f" ({', '.join(known)})" if known else ""))
    rest = len(keys) - len(chosen)
    return f"clips {', '.join(descriptions)}" + (f" and {rest} more" if rest else "")


def shards_of(trainer: Trainer, keys: list[str]) -> dict[str, str]:
    """Key -> name of the clip's tar, if the loader reads shards."""
    dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
    if not hasattr(dataset, "places"):
        return {}
    selected = set(keys)
    return {key: dataset.index.tar(number).name for number, key in dataset.places if key in selected}


def flow_times(module: LightningModule, batch: Batch) -> Tensor | None:
    """Flow times of a training batch [B], drawn again from their counters; ``None`` if the module has no timesteps."""
    timesteps: Any = getattr(module, "timesteps", None)
    return None if timesteps is None else timesteps.draw(seed=module.seed, epoch=batch.epoch, index=batch.index)


def modalities(batch: Batch, i: int) -> str:
    """Modalities of a clip, as a text."""
    has = {"picture": batch.has_video, "sound": batch.has_audio}
    return " and ".join(name for name, present in has.items() if present is None or bool(present[i])) or "neither picture nor sound"


def not_finite(batch: Batch, i: int) -> str:
    """Names of a clip's tensors that contain NaN or Inf, as a text."""
    names = [name for name in INPUTS if (tensor := getattr(batch, name)) is not None and not bool(torch.isfinite(tensor[i]).all())]
    return f"{' and '.join(names)} not finite" if names else ""
