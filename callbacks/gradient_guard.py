"""Stops the run or skips a step if gradients are not finite or implausibly large, and names the clips."""

from __future__ import annotations

from math import isfinite
from statistics import median
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from baton_lightning.batch import Batch
from callbacks.batch_description import describe

WINDOW, ENOUGH = 100, 20
"""Number of recent norms with which a norm is compared, and the smallest number for a comparison."""


class GradientGuard(Callback):
    """Checks the norm of all gradients before clipping, and logs it as ``opt/grad_norm``.

    Every rank computes the same norm, of whole gradients or of DeepSpeed's partitions, so all ranks take the same decision. The message
    names clips, shards, flow times and modalities of the ranks with a loss that is not finite, or of all ranks if every loss is finite.

    A skipped step changes neither the weights nor the optimiser's moments. DeepSpeed skips a step with an infinite gradient, so this
    callback sets one. Without the callback, DeepSpeed skips steps with NaN silently.

    Args:
        action: ``stop`` ends the run before the weights change, with the last checkpoint intact; ``skip`` skips the step.
        max_skips: Largest number of skipped steps; the run stops at the next one.
        spike: Largest norm, as a multiple (> 1) of the median of the last 100 norms; ``None`` = no limit.

    Raises:
        ValueError: If ``spike`` is not above 1.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", max_skips: int = 10, spike: float | None = None) -> None:
        if spike is not None and spike <= 1:
            raise ValueError(f"GradientGuard: spike is a multiple of the median norm and must be above 1, got {spike}")
        self.action, self.max_skips, self.spike, self.skips = action, max_skips, spike, 0
        self.norms: list[float] = []
        self.batch: Batch | None = None
        self.step_batches: list[tuple[Batch | None, Tensor]] = []
        """Batches of the step with their losses; several with gradient accumulation."""
        self.infinite_gradients: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.step_batches.append((self.batch, loss.detach() * trainer.accumulate_grad_batches))  # undoes Lightning's division

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Checks the norm.

        Raises:
            ValueError: If a gradient is not finite or a spike, and the step cannot be skipped.
        """
        if trainer.fit_loop._should_accumulate():
            return  # under DeepSpeed this hook runs after every batch
        gradients = gradients_of(pl_module, optimizer)
        norm = norm_of(gradients, trainer, sharded=is_sharded(optimizer))
        pl_module.log("opt/grad_norm", norm)
        error = self.norm_error(norm)
        step_batches, self.step_batches = self.step_batches, []
        if not trainer.strategy.reduce_boolean_decision(bool(error), all=False):
            self.norms = [*self.norms, norm][-WINDOW:]
            return
        self.skips += 1
        if cannot_skip := isfinite(norm) and getattr(optimizer, "offload_optimizer", False):
            error += " (ZeRO-3 with an offloaded optimiser cannot skip a finite step)"
        where = f"step {trainer.global_step}, epoch {trainer.current_epoch}, {describe_batches(trainer, pl_module, step_batches)}"
        if self.action == "stop" or cannot_skip or self.skips > self.max_skips:
            raise ValueError(
                f"gradients must be {error} at {where}; the last checkpoint is intact. Lower the learning rate, check these clips, or skip "
                "such steps with callbacks.gradient_guard.GradientGuard (action: skip, max_skips)"
            )
        if trainer.is_global_zero:
            print(f"skipped a step ({self.skips} of at most {self.max_skips}): gradients must be {error} at {where}", flush=True)
        self.infinite_gradients = cancel_step(pl_module, optimizer, gradients)

    def on_train_batch_end(self, *_: Any) -> None:
        for gradient in self.infinite_gradients:
            gradient.zero_()  # DeepSpeed reuses these buffers and does not overwrite all of them
        self.infinite_gradients = []

    def norm_error(self, norm: float) -> str:
        """Requirement that a norm violates, as a text; empty if it is plausible."""
        if not isfinite(norm):
            return "finite, got NaN or Inf"
        if self.spike is not None and len(self.norms) >= ENOUGH and norm > (limit := self.spike * median(self.norms)):
            return f"below {limit:.4g} ({self.spike:g} times the median of the last {len(self.norms)}), got a norm of {norm:.4g}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        return {"skips": self.skips, "norms": self.norms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skips, self.norms = state_dict["skips"], list(state_dict["norms"])


def is_sharded(optimizer: Optimizer) -> bool:
    """Whether the gradients are in DeepSpeed's ZeRO optimiser."""
    return hasattr(optimizer, "averaged_gradients")


def gradients_of(module: LightningModule, optimizer: Any) -> list[Tensor]:
    """Whole gradients, or those of this rank's partition."""
    if not is_sharded(optimizer):
        return [p.grad for p in module.parameters() if p.grad is not None]
    shards = [t for t in tree_leaves(dict(optimizer.averaged_gradients)) if isinstance(t, Tensor)]
    return shards or [p.grad for p in master_weights(optimizer) if p.grad is not None]  # the second case: CPU offload


def master_weights(optimizer: Any) -> list[Tensor]:
    """The partition that a rank of ZeRO updates, in full precision."""
    return getattr(optimizer, "fp32_partitioned_groups_flat", None) or optimizer.single_partition_of_fp32_groups


def norm_of(gradients: list[Tensor], trainer: Trainer, *, sharded: bool) -> float:
    """Total norm of all gradients, the same on every rank."""
    norm = get_total_norm(gradients) if gradients else torch.zeros(())
    if not sharded:
        return float(norm)
    square = norm.to(trainer.strategy.root_device, torch.float64).square()
    return float(trainer.strategy.reduce(square, reduce_op="sum")) ** 0.5


def describe_batches(trainer: Trainer, module: LightningModule, step_batches: list[tuple[Batch | None, Tensor]]) -> str:
    """Descriptions of the batches with a loss that is not finite, on all ranks; of all batches if every loss is finite. A collective."""
    own = [(bool(torch.isfinite(loss)), f"loss {float(loss):.4g}, {describe(trainer, module, batch)}") for batch, loss in step_batches]
    ranks: list[Any] = [own]
    if torch.distributed.is_initialized():
        ranks = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, own)
    lines = [(finite, f"rank {rank}: {text}") for rank, batches in enumerate(ranks) for finite, text in batches]
    nonfinite = [text for finite, text in lines if not finite]
    return "; ".join(nonfinite or [text for _, text in lines])


def cancel_step(module: LightningModule, optimizer: Any, gradients: list[Tensor]) -> list[Tensor]:
    """Makes the optimiser skip its next step; returns the gradients that were set to infinity for this."""
    if not is_sharded(optimizer):
        for parameter in module.parameters():
            parameter.grad = None
        return []
    optimizer.check_grad_overflow = optimizer.local_overflow = True
    for gradient in gradients:
        gradient.fill_(float("inf"))
    return gradients
