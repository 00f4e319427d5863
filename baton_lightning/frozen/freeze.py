"""Base class and helpers of frozen networks: no training, a fixed precision, seeded initialisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn

Dtype = Literal["float32", "bfloat16", "float16"]


class Frozen(nn.Module):
    """A network without gradients that always stays in evaluation mode."""

    def freeze(self) -> None:
        """Call this at the end of ``__init__``, after all submodules are assigned."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode: ``train()`` of a parent module must not enable dropout here."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


@contextmanager
def own_precision() -> Iterator[None]:
    """Disables autocast and TensorFloat-32, so that networks compute in the type of their weights.

    The output of a frozen network then depends only on its weights and its input, not on the trainer's precision.
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
    """Seeds random initialisation, on the CPU; the global random state is restored afterwards.

    The same seed gives the same weights with every supported version of torch: 2.13 draws truncated normals in another way than 2.11.
    """
    from transformers.initialization import TORCH_INIT_FUNCTIONS

    drawn = patch.dict(TORCH_INIT_FUNCTIONS, trunc_normal_=truncated_normal_)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), drawn:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators as well
        yield


@torch.no_grad()
def truncated_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: torch.Generator | None = None
) -> Tensor:
    """Fills a tensor with normal values in [a, b]: values outside are drawn again, as by ``torch.nn.init.trunc_normal_`` of torch 2.13.

    Tensors on the meta device are left as they are.
    """
    if tensor.is_meta:
        return tensor
    values = tensor.normal_(mean, std, generator=generator)
    while (outside := (values < a) | (values > b)).any():
        values = torch.where(outside, torch.empty_like(values).normal_(mean, std, generator=generator), values)
    return tensor.copy_(values)
