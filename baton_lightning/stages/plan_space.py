"""Check that a transformer is trained further on plans with the feature statistics that it was adapted to."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.runs import manifest
from baton_lightning.runs import weights as stored

DRIFT = 0.1
"""Largest accepted distance of feature statistics, in standard deviations, averaged over channels."""


def norms(source: nn.Module) -> dict[str, FeatureNorm]:
    """Feature statistics of a source's plans, by modality."""
    owner = getattr(source, "planner", source)
    return {"video": owner.video_norm, "audio": owner.audio_norm}


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
