"""Counter-based random numbers.

A draw is a function of (seed, epoch, sample index, purpose). The numbers are the same in any batch, on any rank and device, before and
after a resume. The global generator is neither used nor changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor


def generator(*, seed: int, epoch: int, index: int, purpose: str) -> Generator:
    """A CPU generator for one draw."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}/{purpose}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_normal(
    shape: tuple[int, ...], *, seed: int, epoch: int, index: Int[Tensor, "B"], purpose: str, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B *X"]:
    """Standard normal numbers of ``shape`` for every sample, on the CPU.

    Args:
        shape: Shape of one sample's draw.
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        index: Global index of each sample within the epoch.
        purpose: Name of the stream, e.g. ``noise.video``.
        dtype: Type of the result.
    """
    return _draw(torch.randn, shape, seed, epoch, index, purpose, dtype)


def draw_uniform(
    shape: tuple[int, ...], *, seed: int, epoch: int, index: Int[Tensor, "B"], purpose: str, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B *X"]:
    """Uniform numbers in [0, 1) of ``shape`` for every sample, on the CPU. Arguments as for :func:`draw_normal`."""
    return _draw(torch.rand, shape, seed, epoch, index, purpose, dtype)


def draw_noise(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int, epoch: int, index: Int[Tensor, "B"], purpose: str, device: torch.device | str
) -> dict[str, Tensor]:
    """Noise for the latents of each modality, float32. A clip's noise is the same in any batch and on any device.

    Args:
        shapes: Modality -> shape of one clip's latents.
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        index: Global index of each sample within the epoch.
        purpose: Name of the stream; the modality's name is added.
        device: Device of the result; the noise is drawn on the CPU.
    """
    return {
        name: draw_normal(shape, seed=seed, epoch=epoch, index=index, purpose=f"{purpose}.{name}").to(device)
        for name, shape in shapes.items()
    }


def _draw(
    draw: Callable[..., Tensor], shape: tuple[int, ...], seed: int, epoch: int, index: Tensor, purpose: str, dtype: torch.dtype
) -> Tensor:
    names = ({"seed": seed, "epoch": epoch, "index": i, "purpose": purpose} for i in index.tolist())
    return torch.stack([draw(shape, generator=generator(**name), dtype=dtype) for name in names])
