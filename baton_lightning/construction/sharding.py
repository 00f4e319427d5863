"""Sharded runs: networks are trained in shards, and leave as whole weights again; how they come to be shards is `construction`.

DeepSpeed's ZeRO keeps 1 / ranks of the optimiser states (stage 1), also of the gradients (2), also of the parameters (3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch import Tensor, nn

from baton_lightning.runs import checkpoints


def zero_stage(strategy: Strategy | None) -> int:
    """ZeRO's stage, 1 to 3; 0 where no strategy of DeepSpeed runs."""
    if not isinstance(strategy, DeepSpeedStrategy) or not isinstance(strategy.config, dict):
        return 0
    return int(strategy.config.get("zero_optimization", {}).get("stage", 0))


def half_precision(strategy: Strategy | None) -> torch.dtype | None:
    """Type in which DeepSpeed computes, while its optimiser steps float32 masters; ``None`` where it keeps no masters."""
    if not zero_stage(strategy):
        return None
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return next((dtype for key, dtype in low.items() if strategy.config.get(key, {}).get("enabled")), None)  # type: ignore[union-attr]


class UnconvertedBatches(DeepSpeedPrecision):
    """DeepSpeed's precision, which leaves batches as they are: a network casts what it is given to its own type."""

    def convert_input(self, data: Any) -> Any:
        return data


def leave_batches(trainer: Trainer) -> None:
    """Keeps Lightning from casting batches to half precision before the flow is computed."""
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        trainer.strategy.precision_plugin = UnconvertedBatches(trainer.precision)


def whole_weights(module: nn.Module, left_out: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Parameters and buffers as whole tensors on the CPU; of those that are trained in half precision the float32 masters.

    Under ZeRO every rank has to call this, and rank 0 alone gets tensors; one parameter is gathered at a time.

    Args:
        module: The module that was trained.
        left_out: Prefixes of keys that belong to another run.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    weights: dict[str, Tensor] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if key.startswith(left_out or ("\0",)):
            continue
        tensor = gathered(parameters[key]) if key in parameters else value.detach()
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            weights[key] = tensor.cpu().contiguous().clone()
    return weights


def gathered(parameter: nn.Parameter) -> Tensor:
    """A parameter as a whole tensor, in full precision if the optimiser keeps it so. All ranks have to ask for the same one."""
    if not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping"):
        return parameter.detach()
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad and (master := safe_get_full_fp32_param(parameter)) is not None:
        return master.detach()
    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().clone()


@contextmanager
def final_weights(trainer: Trainer) -> Iterator[None]:
    """Weights inside are those that a run hands on: an average of them, where a callback keeps one (and has a context ``in_place``)."""
    with ExitStack() as stack:
        for callback in trainer.callbacks:
            if hasattr(callback, "averaged_weights"):
                stack.enter_context(callback.averaged_weights())
        yield


class EndingLoop(_FitLoop):
    """Lightning's loop, which also starts and ends training where a run that goes on from its last step has nothing left to train."""

    def run(self) -> None:
        self.setup_data()
        if not self.skip:
            super().run()
            return
        self.on_run_start()
        self.on_run_end()


class WholeWeights(Callback):
    """Gathers a sharded run's weights when training ends, while the shards are still in place.

    Attributes:
        weights: Key -> tensor, on rank 0; empty until training has ended.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.fit_loop.__class__ = EndingLoop  # a run killed between its last checkpoint and its manifest would hand on no weights

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning divides the loss by ``accumulate_grad_batches``, and DeepSpeed would once more."""
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            engine = trainer.strategy.deepspeed_engine
            engine.backward = partial(engine.backward, scale_wrt_gas=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with final_weights(trainer):
            self.weights = whole_weights(pl_module, tuple(getattr(pl_module, "not_exported", ())))


def require_resumable(checkpoint: Path, strategy: Strategy, world_size: int) -> None:
    """Refuses a checkpoint that the run's strategy cannot go on from.

    Raises:
        ValueError: If it is of another kind of strategy, was cut off, was written by another number of ranks, or is a folder of pickles
            that no manifest vouches for.
    """
    sharded = checkpoint.is_dir()
    if checkpoint.exists() and sharded != isinstance(strategy, DeepSpeedStrategy):
        was, now = ("shards of DeepSpeed", "does not use it") if sharded else ("one file", "uses DeepSpeed")
        raise ValueError(
            f"{checkpoint} holds {was}, this run {now}; go on with the strategy it was begun with, or start the next run from a "
            "finished run's weights.safetensors through model.init_args.parents"
        )
    foreign = checkpoint.is_file() and not checkpoints.manifest_of(checkpoint).exists()  # loaded as weights only
    if not foreign and (fault := checkpoints.fault(checkpoint)):
        raise ValueError(f"{checkpoint} must be a whole checkpoint, but {fault}; give another one")
    if sharded and (ranks := checkpoints.read(checkpoint)["ranks"]) != world_size:
        raise ValueError(f"{checkpoint} was written by {ranks} ranks, this run has {world_size}; DeepSpeed resumes on the same number")
