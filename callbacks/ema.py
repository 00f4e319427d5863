"""An exponential moving average of the trained weights, kept among the optimiser's own moments: sharded and saved as they are."""

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
    """Averages trained weights after every optimiser step: average <- d average + (1 - d) weights, from the first step's weights on.

    d grows from 2 / 11 to ``decay`` as (1 + steps) / (10 + steps), so that a short run's average is not its first steps. The average of
    a weight is one more entry in the optimiser's state, beside its moments: under DeepSpeed each rank averages the pieces that it steps,
    in full precision, checkpoints hold and restore it to the bit, and training itself takes the same steps as without.

    Validation, samples (of callbacks before this one) and ``weights.safetensors`` use the averages; the manifest says so. Checkpoints hold
    both. Going on from a checkpoint without averages starts them at the weights of the next step.

    Args:
        decay: Share of the average that a step leaves, in [0, 1); 0.999 remembers about a thousand steps.

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay must lie in [0, 1), got {decay}")
        self.decay, self.exchanged = decay, False

        self.described = {"weights": f"exponential moving average, decay {decay:g}"}
        """What the manifest says of them."""

    # ---- training
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to the optimiser, also of a run that goes on from its last step and never starts to train.

        Raises:
            ValueError: If there are several, or one steps weights in half precision.
        """
        if len(trainer.optimizers) != 1:
            raise ValueError(f"EMA: there must be one optimiser, got {len(trainer.optimizers)}")
        self.outer: Any = trainer.optimizers[0]
        self.optimizer: Optimizer = getattr(self.outer, "optimizer", self.outer)  # DeepSpeed's wraps the one that steps its pieces
        self.trainer = trainer
        self.handle = self.optimizer.register_step_post_hook(self.update)

    @torch.no_grad()
    def update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Called by the optimiser after its step; ZeRO-3 takes one step for each of its groups.

        Raises:
            ValueError: If the optimiser keeps no state, or the weights have half precision.
        """
        stepped = [p for group in optimizer.param_groups for p in group["params"]]
        if all(p.grad is None for p in stepped):
            return  # a step that was skipped
        steps = self.trainer.global_step
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for p in stepped:
            state = optimizer.state.get(p)
            if not state:
                if p.grad is not None:
                    raise ValueError(f"EMA: averages live among an optimiser's moments, {type(optimizer).__name__} has none; use AdamW")
                continue  # never had a gradient: the weight is its own average
            if p.dtype.itemsize < 4:
                raise ValueError(f"EMA: weights must be stepped in full precision, got {p.dtype}; use precision bf16-mixed or DeepSpeed")
            if AVERAGE in state:
                state[AVERAGE].lerp_(p, 1 - decay)
            else:
                state[AVERAGE] = p.detach().clone()

    # ---- use
    @torch.no_grad()
    def exchange(self) -> None:
        """Averages and weights change places; twice is as if nothing had been."""
        for p, state in self.optimizer.state.items():
            if AVERAGE in state:
                weights: Tensor = p.detach().clone()
                p.copy_(state[AVERAGE])
                state[AVERAGE].copy_(weights)
        self.exchanged = not self.exchanged

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Averages stand in the place of the weights; whoever writes the run's weights does it in here."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.exchange()
            publish(self.outer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.exchanged:
            self.exchange()
            publish(self.outer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.exchanged:
            self.exchange()  # for whoever saves now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.handle.remove()


def publish(optimizer: Any) -> None:
    """Lets DeepSpeed's modules compute with the pieces that its optimiser holds, as after a step."""
    if hasattr(optimizer, "update_lp_params"):  # ZeRO-1 and 2
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO-3
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if kept := optimizer.persistent_parameters:  # small ones stay whole on every rank
            kept[0].partition(kept)
            kept[0].all_gather(kept)
