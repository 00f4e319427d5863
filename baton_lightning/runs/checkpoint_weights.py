"""Weights to look at a run by: those it finished with; of a checkpoint averages where it keeps some, and shards put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch import Tensor

from baton_lightning.runs import checkpoints, manifest, saving

AVERAGE = "average"
"""Name of a weight's moving average in the optimiser's state, as the callback `EMA` keeps it."""


def fill(model: LightningModule, weights: dict[str, Tensor], where: str) -> None:
    """Gives a module its weights, strictly; of what belongs to another run it has them from there.

    Args:
        model: The module, built.
        weights: Key -> tensor. Shards hold a frozen planner too, rounded; it is left out.
        where: What they come from.

    Raises:
        ValueError: If they are not exactly those of the module.
    """
    left_out = tuple(getattr(model, "not_exported", ())) or ("\0",)
    if checkpoints.lacks_frozen(Path(where)):  # these the module has from its parents
        left_out += tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
    missing, unexpected = model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(left_out)}, strict=False)
    missing = [key for key in missing if not key.startswith(left_out)]
    if missing or unexpected:
        raise ValueError(f"the weights of {where} do not fit the configuration: missing {missing[:3]}, unexpected {list(unexpected)[:3]}")


def weights_of(checkpoint: Path, model: LightningModule) -> tuple[dict[str, Tensor], str]:
    """Weights of a checkpoint in full precision, on the CPU.

    Args:
        checkpoint: A file, a folder of DeepSpeed's shards, or ``weights.safetensors`` of a finished run.
        model: The module, built, to know which average belongs to which weight.

    Returns:
        Key -> tensor, and what these weights are, in words.

    Raises:
        ValueError: If the checkpoint is not whole, or was changed after it was written, or is of another geometry.
    """
    path = checkpoint.resolve()
    if path.name == manifest.WEIGHTS:
        manifest.require(path.parent, getattr(model, "clip", None))
        return load_file(path), "the weights that the run finished with"
    if checkpoints.manifest_of(path).exists() or path.is_dir() or not path.exists():
        if fault := checkpoints.fault(path):
            raise ValueError(f"{checkpoint} must be a whole checkpoint, but {fault}; give another one")
        if changed := checkpoints.changed(path):
            raise ValueError(f"{checkpoint} does not have the content its manifest names ({changed[0]} changed); give another one")
    if path.is_dir():
        step = checkpoints.read(path).get("step", "?")
        return consolidate(path), f"the weights of step {step}, put together from shards, not averages of them"
    loaded = saving.PlainFile().load_checkpoint(path)
    if "state_dict" not in loaded:
        raise ValueError(f"{checkpoint} must be a checkpoint or a finished run's {manifest.WEIGHTS}, it has no state_dict")
    weights, averages = loaded["state_dict"], averages_of(loaded, model)
    kind = "averages of the weights" if averages else "the weights"
    return weights | averages, f"{kind} of step {loaded.get('global_step', '?')}"


def averages_of(loaded: dict[str, Any], model: LightningModule) -> dict[str, Tensor]:
    """Moving averages by the names of their weights; empty if the checkpoint has none."""
    states = loaded.get("optimizer_states") or [{"state": {}}]
    averages = {place: state[AVERAGE] for place, state in states[0]["state"].items() if AVERAGE in state}
    if not averages:
        return {}
    optimizer = model.configure_optimizers()["optimizer"]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stepped = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    return {stepped[place]: average for place, average in averages.items()}


def consolidate(folder: Path) -> dict[str, Tensor]:
    """Whole weights from DeepSpeed's shards, by DeepSpeed's own function. The checkpoint's manifest vouches for its pickles."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    whole = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=saving.TAG)
    unsharded = folder / saving.TAG / "mp_rank_00_model_states.pt"  # of ZeRO-1 and 2; that function leaves out what ZeRO-1 does not train
    if unsharded.exists():
        whole = torch.load(unsharded, map_location="cpu", weights_only=False)["module"] | whole
    return {key.removeprefix("_forward_module."): tensor for key, tensor in whole.items()}
