"""Stops or skips a step whose gradients are not finite, or too large to be true, and says which clips they came from."""

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
from callbacks.whereabouts import describe

WINDOW, ENOUGH = 100, 20
"""Norms that a spike is measured against, and how many of them it takes to begin."""


class GradientGuard(Callback):
    """Watches the norm of all gradients before they are clipped, and logs it as ``opt/grad_norm``.

    Every rank finds the same norm, of whole gradients or of DeepSpeed's shards, and all decide together. The message names clips, shards,
    flow times and modalities of the ranks whose loss was not finite, or of all ranks if none was.

    A step that is skipped changes nothing: neither weights nor the optimiser's moments. DeepSpeed is made to skip by an infinite gradient,
    which it steps over; without this callback it steps over its own NaNs as well and says nothing.

    Args:
        action: ``stop`` ends the run before the weights are touched, with the last checkpoint intact; ``skip`` leaves the step out.
        max_skips: Skips after which the run stops all the same.
        spike: Multiple of the median of the last 100 norms above which a gradient is not believed, > 1; ``None`` believes any number.

    Raises:
        ValueError: If ``spike`` is not above 1.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", max_skips: int = 10, spike: float | None = None) -> None:
        if spike is not None and spike <= 1:
            raise ValueError(f"GradientGuard: spike is a multiple of the usual norm and must be above 1, got {spike}")
        self.action, self.max_skips, self.spike, self.skips = action, max_skips, spike, 0
        self.norms: list[float] = []
        self.batch: Batch | None = None
        self.seen: list[tuple[Batch | None, Tensor]] = []
        """Batches of the step and their losses; several where gradients are accumulated."""
        self.marked: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.seen.append((self.batch, loss.detach() * trainer.accumulate_grad_batches))  # by which Lightning has divided it

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Decides.

        Raises:
            ValueError: If a gradient is not finite or a spike, and the step is not to be skipped.
        """
        if trainer.fit_loop._should_accumulate():
            return  # DeepSpeed's optimiser is asked after every batch
        gradients = gradients_of(pl_module, optimizer)
        norm = norm_of(gradients, trainer, sharded=is_sharded(optimizer))
        pl_module.log("opt/grad_norm", norm)
        wrong = self.judge(norm)
        seen, self.seen = self.seen, []
        if not trainer.strategy.reduce_boolean_decision(bool(wrong), all=False):
            self.norms = [*self.norms, norm][-WINDOW:]
            return
        self.skips += 1
        if deaf := isfinite(norm) and getattr(optimizer, "offload_optimizer", False):
            wrong += " (and ZeRO-3 with an offloaded optimiser cannot be made to skip a finite step)"
        where = f"step {trainer.global_step}, epoch {trainer.current_epoch}, {culprits(trainer, pl_module, seen)}"
        if self.action == "stop" or deaf or self.skips > self.max_skips:
            raise ValueError(
                f"gradients must be {wrong} at {where}; the last checkpoint is whole. Lower the learning rate, look at these clips, or let "
                "callbacks.gradient_guard.GradientGuard skip such steps (action: skip, max_skips)"
            )
        if trainer.is_global_zero:
            print(f"skipped a step ({self.skips} of at most {self.max_skips}): gradients must be {wrong} at {where}", flush=True)
        self.marked = skip(pl_module, optimizer, gradients)

    def on_train_batch_end(self, *_: Any) -> None:
        for gradient in self.marked:
            gradient.zero_()  # buffers are used again, and not all of each is written again
        self.marked = []

    def judge(self, norm: float) -> str:
        """What a norm should have been; empty if it is believed."""
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
    """Whether DeepSpeed's ZeRO holds the gradients."""
    return hasattr(optimizer, "averaged_gradients")


def gradients_of(module: LightningModule, optimizer: Any) -> list[Tensor]:
    """Whole gradients, or those of the shards that this rank owns."""
    if not is_sharded(optimizer):
        return [p.grad for p in module.parameters() if p.grad is not None]
    shards = [t for t in tree_leaves(dict(optimizer.averaged_gradients)) if isinstance(t, Tensor)]
    return shards or [p.grad for p in masters(optimizer) if p.grad is not None]  # the second where they are kept in host memory


def masters(optimizer: Any) -> list[Tensor]:
    """The pieces that a rank of ZeRO steps, in full precision."""
    return getattr(optimizer, "fp32_partitioned_groups_flat", None) or optimizer.single_partition_of_fp32_groups


def norm_of(gradients: list[Tensor], trainer: Trainer, *, sharded: bool) -> float:
    """Norm of all gradients together, the same on every rank."""
    norm = get_total_norm(gradients) if gradients else torch.zeros(())
    if not sharded:
        return float(norm)
    square = norm.to(trainer.strategy.root_device, torch.float64).square()
    return float(trainer.strategy.reduce(square, reduce_op="sum")) ** 0.5


def culprits(trainer: Trainer, module: LightningModule, seen: list[tuple[Batch | None, Tensor]]) -> str:
    """Batches whose loss is not finite, on all ranks; all batches if every loss is. A collective."""
    own = [(bool(torch.isfinite(loss)), f"loss {float(loss):.4g}, {describe(trainer, module, batch)}") for batch, loss in seen]
    ranks: list[Any] = [own]
    if torch.distributed.is_initialized():
        ranks = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, own)
    told = [(finite, f"rank {rank}: {text}") for rank, batches in enumerate(ranks) for finite, text in batches]
    guilty = [text for finite, text in told if not finite]
    return "; ".join(guilty or [text for _, text in told])


def skip(module: LightningModule, optimizer: Any, gradients: list[Tensor]) -> list[Tensor]:
    """Makes the optimiser's next step none at all; gives the gradients that were set to infinity for it."""
    if not is_sharded(optimizer):
        for parameter in module.parameters():
            parameter.grad = None
        return []
    optimizer.check_grad_overflow = optimizer.local_overflow = True
    for gradient in gradients:
        gradient.fill_(float("inf"))
    return gradients
