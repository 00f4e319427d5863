"""Weights of a run for evaluation: its final weights, or those of a checkpoint, as moving averages if it holds some; shards are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch import Tensor

from baton_lightning.plain_files import resolved
from baton_lightning.runs import checkpoints, manifest, saving

AVERAGE = "average"
"""Key of a weight's moving average in the optimiser's state, as the callback `EMA` stores it."""


def fill(model: LightningModule, weights: dict[str, Tensor], where: str) -> None:
    """Loads weights into a module, strictly. Weights that belong to other runs are excluded; the module already has them.

    Args:
        model: The module, with its networks constructed.
        weights: Key -> tensor. Shards also hold a frozen planner in reduced precision, which is ignored.
        where: Path of the weights.

    Raises:
        ValueError: If the keys are not exactly those of the module.
    """
    left_out = tuple(getattr(model, "not_exported", ())) or ("\0",)
    if checkpoints.lacks_frozen(Path(where)):  # the module has these from its parents
        left_out += tuple(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
    missing, unexpected = model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(left_out)}, strict=False)
    missing = [key for key in missing if not key.startswith(left_out)]
    if missing or unexpected:
        raise ValueError(f"the weights of {where} do not fit the configuration: missing {missing[:3]}, unexpected {list(unexpected)[:3]}")


def weights_of(checkpoint: Path, model: LightningModule) -> tuple[dict[str, Tensor], str]:
    """Weights of a checkpoint, in full precision on the CPU.

    Args:
        checkpoint: A file, a folder of DeepSpeed's shards, or ``weights.safetensors`` of a finished run.
        model: The module, with its networks constructed. It determines which average belongs to which weight.

    Returns:
        Key -> tensor, and a description of these weights.

    Raises:
        ValueError: If the checkpoint is incomplete, was changed after it was written, or has another geometry.
    """
    path = resolved(checkpoint)
    if path.name == manifest.WEIGHTS:
        manifest.require(path.parent, getattr(model, "clip", None))
        return load_file(path), "the final weights of the run"
    if checkpoints.manifest_of(path).exists() or path.is_dir() or not path.exists():
        if fault := checkpoints.fault(path):
            raise ValueError(f"{checkpoint} must be a complete checkpoint, but {fault}; give another one")
        if changed := checkpoints.changed(path):
            raise ValueError(f"{checkpoint} differs from its manifest ({changed[0]} changed); give another one")
    if path.is_dir():
        step = checkpoints.read(path).get("step", "?")
        return consolidate(path), f"the weights of step {step}, consolidated from shards; they are not averages"
    loaded = saving.PlainFile().load_checkpoint(path)
    if "state_dict" not in loaded:
        raise ValueError(f"{checkpoint} must be a checkpoint or a finished run's {manifest.WEIGHTS}, it has no state_dict")
    weights, averages = loaded["state_dict"], averages_of(loaded, model)
    kind = "averages of the weights" if averages else "the weights"
    return weights | averages, f"{kind} of step {loaded.get('global_step', '?')}"


def averages_of(loaded: dict[str, Any], model: LightningModule) -> dict[str, Tensor]:
    """Name of a weight -> its moving average; empty if the checkpoint has none."""
    states = loaded.get("optimizer_states") or [{"state": {}}]
    averages = {place: state[AVERAGE] for place, state in states[0]["state"].items() if AVERAGE in state}
    if not averages:
        return {}
    optimizer = model.configure_optimizers()["optimizer"]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stepped = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    return {stepped[place]: average for place, average in averages.items()}


def consolidate(folder: Path) -> dict[str, Tensor]:
    """Merges DeepSpeed's shards into full weights, with DeepSpeed's own function. The checkpoint's manifest vouches for its pickles."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    whole = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=saving.TAG)
    unsharded = folder / saving.TAG / "mp_rank_00_model_states.pt"  # ZeRO-1 and 2; the function omits weights that ZeRO-1 does not train
    if unsharded.exists():
        whole = torch.load(unsharded, map_location="cpu", weights_only=False)["module"] | whole
    return {key.removeprefix("_forward_module."): tensor for key, tensor in whole.items()}
