"""Throughput of training, time spent waiting for data, memory and MFU."""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from baton_lightning.batch import Batch
from baton_lightning.gpus import peak_of


class FlopCounter(TorchDispatchMode):
    """Counts floating-point operations as ``torch.utils.flop_counter`` does, but keeps no tensor alive.

    Attributes:
        forward: Operations before :meth:`start_backward`.
        gradient_bound: Upper bound of the operations for gradients. Each product counts once for each of its factors that has a gradient.
        backward: Operations after :meth:`start_backward`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.gradient_bound = self.backward = 0
        self.in_backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            count = formula(*args, **(kwargs or {}), out_val=made)
            if self.in_backward:
                self.backward += count
            else:
                self.forward += count
                self.gradient_bound += count * min(2, sum(has_gradient(factor) for factor in args))
        return made

    def start_backward(self) -> None:
        """Marks the start of the backward pass."""
        self.in_backward = True

    @property
    def useful_flops(self) -> int:
        """Operations of forward and backward, without recomputation of activations."""
        return self.forward + min(self.backward, self.gradient_bound)


def has_gradient(factor: Any) -> bool:
    """Whether an argument of a product is a tensor with a gradient. Tensors with one axis (biases) do not count.

    In custom autograd functions (DeepSpeed's linear layers), arguments are views without a gradient of tensors that have one.
    """
    if not isinstance(factor, Tensor) or factor.ndim < 2:
        return False
    return factor.requires_grad or (factor._base is not None and factor._base.requires_grad)


class Throughput(Callback):
    """Logs ``perf/samples_per_s``, ``perf/tokens_per_s``, ``perf/data_wait_share``, ``perf/memory_gib`` and ``perf/mfu`` every
    ``log_every_n_steps`` optimiser steps, over all batches since the last log.

    Tokens are the latents and planned tokens of both modalities in the batch. Waiting is the time between the end of a batch and the start
    of the next one, without validation. Memory is the peak of rank 0: allocated on its GPU, or resident without one.

        MFU = (F + min(B, G)) * batches / (seconds * peak)

    F and B are floating-point operations of matrix products, convolutions and attention in the forward and the backward pass of rank 0's
    first batch. F includes frozen networks. G is the upper bound of operations for gradients: each product counts once for each factor with
    a gradient. The part of B beyond G is recomputation (activation checkpointing), which MFU does not count.

    Args:
        peak_tflops: Peak of one device, in TFLOP/s; ``None`` = looked up by the GPU's name. MFU is not logged for unknown GPUs.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self.flops: FlopCounter | None = None
        self.counting = False
        self.logged = 0
        self.reset()

    def reset(self) -> None:
        """Resets all counts and times."""
        self.samples = self.tokens = self.batches = 0
        self.waited = 0.0
        self.started = self.ended = time.monotonic()
        self.paused: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.peak_tflops is None and torch.cuda.is_available():
            self.peak_tflops = peak_of(torch.cuda.get_device_name())
        self.flops = None
        self.logged = trainer.global_step
        self.reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused = time.monotonic()  # until the next batch: validation is neither training nor waiting

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        if self.paused is None:
            self.waited += now - self.ended
        else:
            self.started += now - self.paused
            self.paused = None
        if self.peak_tflops is not None and self.flops is None:
            self.flops = FlopCounter()
            self.flops.__enter__()
            self.counting = True

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.flops is not None and self.counting:
            self.flops.start_backward()

    def on_after_backward(self, *_: Any) -> None:
        if self.flops is not None and self.counting:
            self.flops.__exit__(None, None, None)
            self.counting = False

    def on_exception(self, *_: Any) -> None:
        self.on_after_backward()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.samples += len(batch)
        self.tokens += num_tokens(batch)
        self.batches += 1
        self.ended = time.monotonic()
        step = trainer.global_step
        if step == self.logged or step % trainer.log_every_n_steps or trainer.logger is None:  # type: ignore[attr-defined]
            return
        self.logged = step
        seconds = max(self.ended - self.started, 1e-9)
        values = {
            "samples_per_s": self.samples * trainer.world_size / seconds,
            "tokens_per_s": self.tokens * trainer.world_size / seconds,
            "data_wait_share": self.waited / seconds,
            "memory_gib": peak_memory(),
        }
        if self.flops is not None and self.peak_tflops is not None:
            values["mfu"] = self.flops.useful_flops * self.batches / (seconds * self.peak_tflops * 1e12)
        trainer.logger.log_metrics({f"perf/{name}": value for name, value in values.items()}, step)
        ended = self.ended
        self.reset()
        self.started = self.ended = ended


def peak_memory() -> float:
    """Peak memory of this process, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def num_tokens(batch: Batch) -> int:
    """Latent positions and planned tokens of a batch."""
    count = 0
    if batch.video_latents is not None:
        count += batch.video_latents.shape[0] * batch.video_latents[0, 0].numel()
    for tensor in (batch.audio_latents, batch.video_features, batch.audio_features):
        if tensor is not None:
            count += tensor.shape[0] * tensor.shape[1]
    return count
