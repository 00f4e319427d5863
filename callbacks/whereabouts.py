"""Which clips a batch holds, in words: key, shard, flow time, modality; what is said when one of them has to be found."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from baton_lightning.batch import Batch

INPUTS = ("video_latents", "audio_latents", "video_features", "audio_features", "context")


def describe(trainer: Trainer, module: LightningModule, batch: Batch | None, most: int = 4) -> str:
    """Clips of a batch and all that is known of them, those first whose own tensors are not finite.

    Args:
        trainer: Knows the shards.
        module: Knows the flow times, if it draws any.
        batch: The batch.
        most: Clips to name.
    """
    if batch is None:
        return "no clips yet"
    wrong = [not_finite(batch, i) for i in range(len(batch))]
    times = flow_times(module, batch)
    facts = [[f"t {times[i]:.3f}" if times is not None else "", modalities(batch, i), wrong[i]] for i in range(len(batch))]
    return in_words(trainer, batch.keys, facts, sorted(range(len(batch)), key=lambda i: not wrong[i])[:most])


def names(trainer: Trainer, batch: Batch | None, most: int = 4) -> str:
    """Clips of a batch and their shards, without a look at its tensors: on a device that hangs, nobody comes back from that."""
    if batch is None:
        return "no clips yet"
    return in_words(trainer, batch.keys, [[] for _ in batch.keys], list(range(len(batch)))[:most])


def in_words(trainer: Trainer, keys: list[str], facts: list[list[str]], chosen: list[int]) -> str:
    """The chosen clips with shards and facts, and how many there are besides."""
    shards = shards_of(trainer, keys)
    said = []
    for i in chosen:
        known = [fact for fact in (shards.get(keys[i], ""), *facts[i]) if fact]
        said.append(keys[i] + (f" ({', '.join(known)})" if known else ""))
    rest = len(keys) - len(chosen)
    return f"clips {', '.join(said)}" + (f" and {rest} more" if rest else "")


def shards_of(trainer: Trainer, keys: list[str]) -> dict[str, str]:
    """Key -> name of the tar it was read from, if the loader reads shards."""
    dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
    if not hasattr(dataset, "places"):
        return {}
    wanted = set(keys)
    return {key: dataset.index.tar(number).name for number, key in dataset.places if key in wanted}


def flow_times(module: LightningModule, batch: Batch) -> Tensor | None:
    """Flow times of a training batch [B], drawn again from their counters; ``None`` where nothing is diffused."""
    timesteps: Any = getattr(module, "timesteps", None)
    return None if timesteps is None else timesteps.draw(seed=module.seed, epoch=batch.epoch, index=batch.index)


def modalities(batch: Batch, i: int) -> str:
    """What a clip has."""
    has = {"picture": batch.has_video, "sound": batch.has_audio}
    return " and ".join(name for name, present in has.items() if present is None or bool(present[i])) or "neither picture nor sound"


def not_finite(batch: Batch, i: int) -> str:
    """Tensors of a clip that hold NaN or Inf."""
    names = [name for name in INPUTS if (tensor := getattr(batch, name)) is not None and not bool(torch.isfinite(tensor[i]).all())]
    return f"{' and '.join(names)} not finite" if names else ""
