"""What every borrowed network shares: it never trains, and its random twins never touch the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

Dtype = Literal["float32", "bfloat16", "float16"]


class Frozen(nn.Module):
    """A network that is only read: no gradients, evaluation mode for ever, whatever the module around it does."""

    def freeze(self) -> None:
        """Call at the end of ``__init__``, once all children are there."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode: a trainer that calls ``train()`` on its root must not switch dropout on in here."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


@contextmanager
def own_precision() -> Iterator[None]:
    """Networks compute in the type that their weights have, whatever the trainer's precision and the machine's short cuts.

    Autocast and TensorFloat-32 are off inside. What a frozen network gives then follows from its weights and its input.
    """
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random initialisation as a function of ``seed`` alone: on the CPU, and the global random state is put back afterwards."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators as well
        yield
