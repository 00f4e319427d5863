"""Sharded runs: precision of partitioned networks, and gathering of their weights at the end of training.

DeepSpeed's ZeRO partitions the optimiser states over ranks (stage 1), also the gradients (2), also the parameters (3).
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
    """ZeRO's stage, 1 to 3; 0 for other strategies."""
    if not isinstance(strategy, DeepSpeedStrategy) or not isinstance(strategy.config, dict):
        return 0
    return int(strategy.config.get("zero_optimization", {}).get("stage", 0))


def half_precision(strategy: Strategy | None) -> torch.dtype | None:
    """Type in which DeepSpeed computes with float32 master weights; ``None`` = no master weights."""
    if strategy is None or not zero_stage(strategy):
        return None
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return next((dtype for key, dtype in low.items() if strategy.config.get(key, {}).get("enabled")), None)


class KeepBatchPrecision(DeepSpeedPrecision):
    """DeepSpeed's precision plugin without conversion of batches: networks cast their own inputs."""

    def convert_input(self, data: Any) -> Any:
        return data


def keep_batch_precision(trainer: Trainer) -> None:
    """Prevents Lightning from casting batches to half precision before the flow is computed."""
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        trainer.strategy.precision_plugin = KeepBatchPrecision(trainer.precision)


def full_state_dict(module: nn.Module, excluded: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Parameters and buffers as whole tensors on the CPU; float32 master weights for parameters trained in half precision.

    Under ZeRO every rank must call this, and only rank 0 gets tensors; one parameter is gathered at a time.

    Args:
        module: The trained module.
        excluded: Prefixes of keys that are not part of the run's weights.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    weights: dict[str, Tensor] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if key.startswith(excluded or ("\0",)):
            continue
        tensor = gather_parameter(parameters[key]) if key in parameters else value.detach()
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            weights[key] = tensor.cpu().contiguous().clone()
    return weights


def gather_parameter(parameter: nn.Parameter) -> Tensor:
    """A parameter as a whole tensor, in full precision if the optimiser has master weights. A collective of all ranks."""
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
    """Context in which the module's weights are the run's final weights: an average, if a callback has a context ``averaged_weights``."""
    with ExitStack() as stack:
        for callback in trainer.callbacks:
            if hasattr(callback, "averaged_weights"):
                stack.enter_context(callback.averaged_weights())
        yield


class FitLoopWithEnd(_FitLoop):
    """Lightning's fit loop, with the hooks for start and end of training also for a run that resumes from its last step."""

    def run(self) -> None:
        self.setup_data()
        if not self.skip:
            super().run()
            return
        self.on_run_start()
        self.on_run_end()


class GatherWeights(Callback):
    """Gathers the weights at the end of training, before partitions are released.

    Attributes:
        weights: Key -> tensor, on rank 0; empty before the end of training.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.fit_loop.__class__ = FitLoopWithEnd  # for runs that were killed between their last checkpoint and their manifest

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prevents DeepSpeed from dividing the loss by ``accumulate_grad_batches`` again, after Lightning did."""
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            engine = trainer.strategy.deepspeed_engine
            engine.backward = partial(engine.backward, scale_wrt_gas=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with final_weights(trainer):
            self.weights = full_state_dict(pl_module, tuple(getattr(pl_module, "not_exported", ())))


def require_resumable(checkpoint: Path, strategy: Strategy, world_size: int) -> None:
    """Refuses a checkpoint from which the run's strategy cannot resume.

    Raises:
        ValueError: If it belongs to another kind of strategy, is incomplete, was written by another number of ranks, or is a folder
            without a manifest.
    """
    sharded = checkpoint.is_dir()
    if checkpoint.exists() and sharded != isinstance(strategy, DeepSpeedStrategy):
        was, now = ("shards of DeepSpeed", "does not use it") if sharded else ("one file", "uses DeepSpeed")
        raise ValueError(
            f"{checkpoint} holds {was}, but this run {now}; resume with the strategy of the checkpoint, or start a new run from a finished "
            "run's weights.safetensors with model.init_args.parents"
        )
    foreign = checkpoint.is_file() and not checkpoints.manifest_of(checkpoint).exists()  # loaded as weights only
    if not foreign and (fault := checkpoints.fault(checkpoint)):
        raise ValueError(f"{checkpoint} must be a complete checkpoint, but {fault}; give another one")
    if sharded and (ranks := checkpoints.read(checkpoint)["ranks"]) != world_size:
        raise ValueError(f"{checkpoint} was written by {ranks} ranks, this run has {world_size}; DeepSpeed resumes on the same number")
