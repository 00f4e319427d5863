"""Whether a transformer goes on in the plan space that it was adapted to: plans are standardised, by the statistics of some data."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.runs import manifest
from baton_lightning.runs import weights as stored

DRIFT = 0.1
"""Distance of two spaces, in standard deviations, mean over channels, up to which they count as one."""


def norms(source: nn.Module) -> dict[str, FeatureNorm]:
    """Statistics of the plans that a source gives, by modality."""
    owner = getattr(source, "planner", source)
    return {"video": owner.video_norm, "audio": owner.audio_norm}


def statistics(source: nn.Module) -> dict[str, Tensor]:
    """Mean and standard deviation [2, C] of the plans that a source gives, by modality, on the CPU."""
    return {name: torch.stack([norm.mean, norm.std]).cpu() for name, norm in norms(source).items()}


def of_run(run: Path) -> dict[str, dict[str, Tensor]]:
    """Mean and standard deviation, by modality, of the plans that a run's transformer was trained on: its own, or its planner's.

    Returns:
        Nothing for a transformer that never saw a plan, and, with a warning, where the planner's run is gone.
    """
    if own := held(run, "plan"):
        return own
    known = manifest.read(run) if (run / manifest.NAME).exists() else {}
    if (planner := known.get("parents", {}).get("planner")) is None:
        return {}
    was = Path(planner["run"])
    for place in (was, run.parent / was.name):
        if (place / manifest.NAME).exists() and manifest.read(place)["weights_sha256"] == planner["weights_sha256"]:
            return held(place, "planner")
    warnings.warn(
        f"{run}/ was trained along the plans of {was}/, which is gone; whether this run's lie in their space is unknown", stacklevel=2
    )
    return {}


def held(folder: Path, component: str) -> dict[str, dict[str, Tensor]]:
    """Statistics among the weights of a run; nothing if it has none."""
    found = {name: stored.read(folder, f"{component}.{name}_norm") for name in ("video", "audio")} if stored.files(folder) else {}
    return found if all(found.values()) else {}


def drift(source: nn.Module, run: Path) -> dict[str, float]:
    """How far plans of a source lie from those that a run's transformer was trained on, by modality, as in :meth:`FeatureNorm.drift`.

    Args:
        source: Plan source of this run.
        run: The run of which the transformer was taken over.

    Raises:
        ValueError: If it is further than :data:`DRIFT`.
    """
    there = of_run(run)
    found = {name: norm.drift(there[name]["mean"], there[name]["std"]) for name, norm in norms(source).items() if there}
    if max(found.values(), default=0.0) > DRIFT:
        said = " and ".join(f"{name} {distance:.2f}" for name, distance in found.items())
        raise ValueError(
            f"the transformer of {run}/ must have been trained on plans of this run's feature space, but the two lie {said} standard "
            f"deviations apart, more than {DRIFT:g}; adapt it on the data that the planner was trained on, or train the planner on its data"
        )
    return found
