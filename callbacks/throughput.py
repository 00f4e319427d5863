"""How fast training runs, how much of it is waiting for data, how much of the device it uses."""

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


class Flops(TorchDispatchMode):
    """Counts floating-point operations as ``torch.utils.flop_counter`` does, but keeps no tensor alive.

    Attributes:
        forward: Those before :meth:`turn`.
        owed: What the gradients of the forward pass take at most: an operation once more for each of its factors that has a gradient.
        backward: Those after :meth:`turn`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.owed = self.backward = 0
        self.turned = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            taken = formula(*args, **(kwargs or {}), out_val=made)
            if self.turned:
                self.backward += taken
            else:
                self.forward += taken
                self.owed += taken * min(2, sum(has_gradient(factor) for factor in args))
        return made

    def turn(self) -> None:
        """The backward pass begins."""
        self.turned = True

    @property
    def work(self) -> int:
        """What the model asks for: forward and backward, without a forward that is repeated to save memory."""
        return self.forward + min(self.backward, self.owed)


def has_gradient(factor: Any) -> bool:
    """Whether an argument of a product is a tensor with a gradient; biases, which are added, have one axis.

    A custom function (DeepSpeed's linear layers) sees views without a gradient of tensors that have one.
    """
    if not isinstance(factor, Tensor) or factor.ndim < 2:
        return False
    return factor.requires_grad or (factor._base is not None and factor._base.requires_grad)


class Throughput(Callback):
    """Logs ``perf/samples_per_s``, ``perf/tokens_per_s``, ``perf/data_wait_share``, ``perf/memory_gib`` and ``perf/mfu`` every
    ``log_every_n_steps`` optimiser steps, over all batches since the last time.

    Tokens are latents and planned tokens of both modalities that the batch carries. Waiting is the time between the end of a batch
    and the start of the next one; time in validation is left out. Memory is the most that rank 0 has held so far: allocated on its GPU,
    or resident without one.

        MFU = (F + min(B, G)) * batches / (seconds * peak)

    F and B are floating-point operations of matrix products, convolutions and attention in the forward and the backward pass of rank 0's
    first batch. F includes frozen networks. G is one F for each factor of a product that has a gradient, so at most twice the part of F
    that is trained through, and nothing for networks that are frozen. What B has beyond G repeats a forward to save memory (activation
    checkpointing) and is no progress.

    Args:
        peak_tflops: Peak of one device in TFLOP/s; ``None`` knows common GPUs by their names and logs no MFU for others.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self.flops: Flops | None = None
        self.counting = False
        self.logged = 0
        self.restart()

    def restart(self) -> None:
        """Nothing has been done yet."""
        self.samples = self.tokens = self.batches = 0
        self.waited = 0.0
        self.since = self.ended = time.monotonic()
        self.paused: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.peak_tflops is None and torch.cuda.is_available():
            self.peak_tflops = peak_of(torch.cuda.get_device_name())
        self.flops = None
        self.logged = trainer.global_step
        self.restart()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused = time.monotonic()  # until the next batch: validation and its samples are neither training nor waiting

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        if self.paused is None:
            self.waited += now - self.ended
        else:
            self.since += now - self.paused
            self.paused = None
        if self.peak_tflops is not None and self.flops is None:
            self.flops = Flops()
            self.flops.__enter__()
            self.counting = True

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.flops is not None and self.counting:
            self.flops.turn()

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
        seconds = max(self.ended - self.since, 1e-9)
        values = {
            "samples_per_s": self.samples * trainer.world_size / seconds,
            "tokens_per_s": self.tokens * trainer.world_size / seconds,
            "data_wait_share": self.waited / seconds,
            "memory_gib": peak_memory(),
        }
        if self.flops is not None and self.peak_tflops is not None:
            values["mfu"] = self.flops.work * self.batches / (seconds * self.peak_tflops * 1e12)
        trainer.logger.log_metrics({f"perf/{name}": value for name, value in values.items()}, step)
        ended = self.ended
        self.restart()
        self.since = self.ended = ended


def peak_memory() -> float:
    """The most memory that this process has held, in GiB."""
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
