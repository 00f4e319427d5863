"""Parameter groups with weight decay and learning rates, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from baton_lightning.construction import sharding
from baton_lightning.models.parts import matching_part, require_parts

OptimizerFactory = Callable[[Iterable], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class WarmupCosine(LambdaLR):
    """Linear warm-up, whose n-th step has n / ``warmup_steps`` of the rate, then a cosine decay to ``floor``.

    The number of steps is an argument and not read from the trainer, so that a resumed or shortened run has the same schedule.

    Args:
        optimizer: Optimiser.
        warmup_steps: Steps until the full rate, >= 0.
        total_steps: Step at which ``floor`` is reached; the rate is constant afterwards.
        floor: Final rate as a share of the full rate, in [0, 1].

    Raises:
        ValueError: If ``warmup_steps`` is not in [0, ``total_steps``).
    """

    def __init__(self, optimizer: Optimizer, *, warmup_steps: int, total_steps: int, floor: float = 0.0) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"model.init_args.scheduler.init_args.warmup_steps must be at least 0 and less than total_steps, which follows "
                f"trainer.max_steps, got {warmup_steps} of {total_steps} steps; give fewer, or train longer"
            )

        def scale(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, scale)


def parameter_groups(module: nn.Module, rates: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Trainable parameters in groups, each with ``name``, ``rate`` (a factor of the learning rate) and ``matrices`` (whether it consists of
    weight matrices of layers).

    Only weights of layers have weight decay, not vectors (biases, norms, single embeddings), embedding tables, or parameters that are not
    in a layer (queries, placeholders).

    Args:
        module: Module whose trainable parameters are grouped.
        rates: Dotted name of a part -> factor > 0 of the learning rate; ``*`` stands for any characters, and the longest matching name is
            used.

    Raises:
        ValueError: If a name in ``rates`` matches no trained part, a factor is not positive, or nothing is trained.
    """
    rates = rates or {}
    modules = dict(module.named_modules())
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("nothing to train: every parameter is frozen")
    if invalid := [f"{name}: {rate:g}" for name, rate in rates.items() if not rate > 0]:
        raise ValueError(f"model.init_args.rates must be positive factors on the learning rate, got {invalid[0]}; freeze parts instead")
    require_parts(rates, trained, "model.init_args.rates")
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in trained.items():
        owner, _, leaf = name.rpartition(".")
        part = matching_part(name, rates)
        decays = leaf == "weight" and parameter_ndim(parameter) > 1 and not isinstance(modules[owner], nn.Embedding)
        if (part, decays) not in groups:
            name = (part or "rest") + ("" if decays else ".no_decay")
            group: dict[str, Any] = {"name": name, "rate": rates.get(part, 1.0), "matrices": decays, "params": []}
            groups[part, decays] = group if decays else group | {"weight_decay": 0.0}
        groups[part, decays]["params"].append(parameter)
    return sorted(groups.values(), key=lambda group: group["name"] != "rest")


def parameter_ndim(parameter: nn.Parameter) -> int:
    """Number of dimensions of a parameter, also if ZeRO-3 has partitioned it (its tensor is then empty)."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def build_optimizer(
    module: nn.Module,
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None = None,
    rates: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return value of ``configure_optimizers``: the optimiser over :func:`parameter_groups`, and its schedule per step.

    Args:
        module: Module to train.
        optimizer: Factory of the optimiser, whose learning rate is multiplied by ``rates``.
        scheduler: Factory of the schedule; ``None`` = constant rate.
        rates: See :func:`parameter_groups`.

    Raises:
        ValueError: If the strategy does not support the optimiser or the type of the trained weights.
    """
    strategy = getattr(getattr(module, "_trainer", None), "strategy", None)
    low = {name: p.dtype for name, p in module.named_parameters() if p.requires_grad and p.dtype.itemsize < 4}
    if low and sharding.half_precision(strategy) is None:
        name, dtype = next(iter(low.items()))
        raise ValueError(
            f"trained weights must be float32, or have float32 masters; {len(low)} are not, the first is {name} in {dtype}, where steps of "
            "the size of a learning rate are rounded away. Load them with dtype: float32, freeze them, or train with DeepSpeed and "
            "--trainer.precision bf16-mixed (-c experiments/strategy/zero2.yaml), which keeps masters"
        )
    built = optimizer(parameter_groups(module, rates))
    if getattr(built, "whole_matrices", False) and sharding.zero_stage(strategy):
        raise ValueError(
            f"{type(built).__name__} needs whole matrices, and DeepSpeed hands its optimiser flat shards at every ZeRO stage; give "
            "--model.init_args.optimizer torch.optim.AdamW"
        )
    for group in built.param_groups:
        group["lr"] *= group["rate"]
    if scheduler is None:
        return {"optimizer": built}
    return {"optimizer": built, "lr_scheduler": {"scheduler": scheduler(built), "interval": "step", "name": "opt/lr"}}
