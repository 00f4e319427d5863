"""An exponential moving average of the trained weights, stored in the optimiser's state, and sharded and saved with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

AVERAGE = "average"
"""Name of the average in an optimiser's state."""


class EMA(Callback):
    """Averages the trained weights after every optimiser step: average <- d average + (1 - d) weights, starting with the first step's
    weights.

    d grows from 2 / 11 to ``decay`` as (1 + steps) / (10 + steps), so that the average of a short run is not dominated by its first steps.
    The average of a weight is an entry of the optimiser's state, beside its moments. Under DeepSpeed each rank averages its own partition,
    in full precision. Checkpoints restore averages bit-exactly. Training steps are the same as without this callback.

    Validation, samples (of callbacks before this one) and ``weights.safetensors`` use the averages, which the manifest records. Checkpoints
    hold both. A run that resumes from a checkpoint without averages starts them at the weights of its next step.

    Args:
        decay: Decay d of the average, in [0, 1); 0.999 averages over about a thousand steps.

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay must be in [0, 1), got {decay}")
        self.decay, self.swapped = decay, False

        self.described = {"weights": f"exponential moving average, decay {decay:g}"}
        """Entry of the manifest."""

    # ---- training
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Registers a hook of the optimiser, also if the run resumes from its last step and does not train.

        Raises:
            ValueError: If there are several optimisers, or one updates weights in half precision.
        """
        if len(trainer.optimizers) != 1:
            raise ValueError(f"EMA: there must be one optimiser, got {len(trainer.optimizers)}")
        self.outer: Any = trainer.optimizers[0]
        self.optimizer: Optimizer = getattr(self.outer, "optimizer", self.outer)  # DeepSpeed's optimiser wraps the one of its partition
        self.trainer = trainer
        self.handle = self.optimizer.register_step_post_hook(self.update)

    @torch.no_grad()
    def update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Called by the optimiser after its step; ZeRO-3 makes one step for each group.

        Raises:
            ValueError: If the optimiser has no state, or the weights have half precision.
        """
        stepped = [p for group in optimizer.param_groups for p in group["params"]]
        if all(p.grad is None for p in stepped):
            return  # the step was skipped
        steps = self.trainer.global_step
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for p in stepped:
            state = optimizer.state.get(p)
            if not state:
                if p.grad is not None:
                    raise ValueError(
                        f"EMA: averages need an optimiser with state, got {type(optimizer).__name__}, which has none; use AdamW"
                    )
                continue  # without a gradient so far, the weight equals its average
            if p.dtype.itemsize < 4:
                raise ValueError(f"EMA: weights must be updated in full precision, got {p.dtype}; use precision bf16-mixed or DeepSpeed")
            if AVERAGE in state:
                state[AVERAGE].lerp_(p, 1 - decay)
            else:
                state[AVERAGE] = p.detach().clone()

    # ---- use
    @torch.no_grad()
    def swap(self) -> None:
        """Swaps averages and weights; a second call restores them."""
        for p, state in self.optimizer.state.items():
            if AVERAGE in state:
                weights: Tensor = p.detach().clone()
                p.copy_(state[AVERAGE])
                state[AVERAGE].copy_(weights)
        self.swapped = not self.swapped

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Context in which the model's weights are the averages, for writing the run's weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.swap()
            update_model_weights(self.outer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.swapped:
            self.swap()
            update_model_weights(self.outer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.swapped:
            self.swap()  # checkpoints after an error must hold the weights

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.handle.remove()


def update_model_weights(optimizer: Any) -> None:
    """Updates the weights of DeepSpeed's modules from its optimiser's partitions, as after a step."""
    if hasattr(optimizer, "update_lp_params"):  # ZeRO-1 and 2
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO-3
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if persistent := optimizer.persistent_parameters:  # small parameters are not partitioned
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)
