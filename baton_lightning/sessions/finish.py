"""Writes the files of a finished run: full weights, then the manifest, which completes the run. Rank 0 writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from baton_lightning import atomic
from baton_lightning.clip import ClipSpec
from baton_lightning.construction import sharding
from baton_lightning.runs import manifest


def write_weights(folder: Path, trainer: Trainer, collected: sharding.GatherWeights | None) -> None:
    """Writes the final weights, unsharded and in full precision.

    Args:
        folder: Run folder.
        trainer: The trainer of the module.
        collected: The callback that gathered the shards; ``None`` if the run was not sharded.

    Raises:
        OSError: If the weights cannot be written.
    """
    model = trainer.lightning_module
    if collected is not None:
        weights = collected.weights
        if hasattr(model, "untrained"):
            weights |= model.untrained()
    else:
        with sharding.final_weights(trainer):
            weights = sharding.full_state_dict(model, tuple(getattr(model, "not_exported", ())))
    atomic.write_tensors(folder / manifest.WEIGHTS, weights)


def write_manifest(
    folder: Path,
    trainer: Trainer,
    *,
    clip: ClipSpec,
    parents: dict[str, dict[str, str]],
    config: dict[str, Any],
    seed: int | None,
    seconds: float,
    settings_digest: str | None,
) -> None:
    """Writes the manifest, which completes the run. Entries of the module and of callbacks are added.

    Args:
        folder: Run folder that holds the weights.
        trainer: The trainer of the module.
        clip: Geometry of the module's clips.
        parents: Role -> run folder and digest of each parent, recorded at the start of the run.
        config: Resolved configuration.
        seed: Seed of the run.
        seconds: Wall time of this session, in s.
        settings_digest: Digest of the settings that the command requested, if known.
    """
    model, data = trainer.lightning_module, trainer.datamodule
    described = manifest.describe(
        stage=type(model).__name__,
        clip=clip,
        parents=parents,
        config=config,
        data=data.manifest_digest() if hasattr(data, "manifest_digest") else None,
        seed=seed,
        metrics={k: float(v) for k, v in sorted(trainer.callback_metrics.items()) if v == v},  # NaN: a mean over no clips
        seconds=seconds,
        weights=folder / manifest.WEIGHTS,
    )
    described |= {"asked": settings_digest}
    for part in (model, *trainer.callbacks):
        described |= getattr(part, "described", {})
    atomic.write_text(folder / manifest.NAME, json.dumps(described, indent=1))
