"""Feature statistics of plans: fitted to the data, compared with the data, and with those that a transformer was adapted to."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.runs import manifest
from baton_lightning.runs import weights as stored

DRIFT = 0.1
"""Largest accepted distance of feature statistics, in standard deviations, averaged over channels."""
FOREIGN = 1.0
"""Distance above which the features of a data set and of a planner are taken for those of two perceivers."""


def norms(source: nn.Module) -> dict[str, FeatureNorm]:
    """Feature statistics of a source's plans, by modality."""
    owner = getattr(source, "planner", source)
    return {"video": owner.video_norm, "audio": owner.audio_norm}


def fit_or_compare(source: nn.Module, datamodule: Any, online: Any = None, *, mixes: bool = False) -> None:
    """Fits the feature statistics of a source to the training set, or compares those that it has with the training set's.

    Args:
        source: Planner or plan source.
        datamodule: The data, with ``feature_statistics``.
        online: Networks that compute features of each batch; ``None`` if features are cached.
        mixes: Whether a clip may get its own features as its plan, beside planned tokens.

    Raises:
        ValueError: If features and planned tokens are mixed and the distance exceeds :data:`FOREIGN`.
    """
    own = datamodule.feature_statistics(online)
    for name, norm in norms(source).items():
        if not norm.fitted:
            norm.fit(*own[name])
        elif (distance := norm.drift(*own[name])) > DRIFT:
            differ = f"the {name} features of this data differ by {distance:.2f} standard deviations from those the planner was trained on"
            if mixes and distance > FOREIGN:
                raise ValueError(
                    f"{differ}, so they must be of another perceiver; encode the data with the planner's perceiver (and the same versions "
                    "of torch and transformers, if it is a random one), or train the planner on this data"
                )
            fix = "Encode the data with the parent's perceivers, or pretrain the planner on this data"
            warnings.warn(f"{differ}; its statistics are kept. {fix}", stacklevel=2)


def statistics(source: nn.Module) -> dict[str, Tensor]:
    """Mean and standard deviation [2, C] of a source's plans, by modality, on the CPU."""
    return {name: torch.stack([norm.mean, norm.std]).cpu() for name, norm in norms(source).items()}


def training_statistics(run: Path) -> dict[str, dict[str, Tensor]]:
    """Mean and standard deviation, by modality, of the plans that a run's transformer was trained on, from this run or its planner's run.

    Returns:
        The statistics; empty for a transformer that was trained without plans, or, with a warning, if the planner's run does not exist.
    """
    if own := stored_statistics(run, "plan"):
        return own
    known = manifest.read(run) if (run / manifest.NAME).exists() else {}
    if (planner := known.get("parents", {}).get("planner")) is None:
        return {}
    planner_run = Path(planner["run"])
    for candidate in (planner_run, run.parent / planner_run.name):
        if (candidate / manifest.NAME).exists() and manifest.read(candidate)["weights_sha256"] == planner["weights_sha256"]:
            return stored_statistics(candidate, "planner")
    warnings.warn(
        f"{run}/ was trained on plans of {planner_run}/, which does not exist; their feature statistics cannot be compared", stacklevel=2
    )
    return {}


def stored_statistics(folder: Path, component: str) -> dict[str, dict[str, Tensor]]:
    """Feature statistics in the weights of a run; empty if there are none."""
    found = {name: stored.read(folder, f"{component}.{name}_norm") for name in ("video", "audio")} if stored.files(folder) else {}
    return found if all(found.values()) else {}


def drift(source: nn.Module, run: Path) -> dict[str, float]:
    """Distance of a source's feature statistics from those that a run's transformer was trained on, see :meth:`FeatureNorm.drift`.

    Args:
        source: Plan source of this run.
        run: Parent run of the transformer.

    Raises:
        ValueError: If the distance of a modality exceeds :data:`DRIFT`.
    """
    trained_on = training_statistics(run)
    found = {name: norm.drift(trained_on[name]["mean"], trained_on[name]["std"]) for name, norm in norms(source).items() if trained_on}
    if max(found.values(), default=0.0) > DRIFT:
        text = " and ".join(f"{name} {distance:.2f}" for name, distance in found.items())
        raise ValueError(
            f"the transformer of {run}/ must have been trained on plans with this run's feature statistics, but they differ by {text} "
            f"standard deviations, more than {DRIFT:g}; adapt it on the planner's data, or train the planner on its data"
        )
    return found
