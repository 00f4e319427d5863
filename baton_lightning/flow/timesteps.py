"""Distributions of flow times in training."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from baton_lightning.flow.draws import draw_uniform
from baton_lightning.flow.path import shift_time


class UniformTimesteps:
    """Uniformly distributed flow times, shifted towards noise.

    Args:
        shift: Shift of the distribution, see :func:`~baton_lightning.flow.path.shift_time`; 1 = none (Ovi samples with 5).
        strata: Strata of stratified sampling: any ``strata`` consecutive samples have one flow time in each stratum; 1 = independent draws.
            A sample's stratum depends only on its index and epoch.

    Raises:
        ValueError: If ``shift`` or ``strata`` is not positive.
    """

    def __init__(self, shift: float = 1.0, strata: int = 1) -> None:
        if shift <= 0 or strata < 1:
            raise ValueError(f"timesteps need shift > 0 and strata >= 1, got shift={shift}, strata={strata}")
        self.shift, self.strata = shift, strata

    def __call__(self, u: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Flow times for uniform numbers in [0, 1): the inverse of the cumulative distribution function, which is increasing."""
        return shift_time(self.quantile(u), self.shift)

    def quantile(self, u: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """Flow times before the shift."""
        return u

    def draw(self, *, seed: int, epoch: int, index: Int[Tensor, "B"], purpose: str = "t") -> Float[Tensor, "B"]:
        """Counter-based flow times of a batch, on the CPU. Arguments as for :func:`~baton_lightning.flow.draws.draw_uniform`."""
        u = draw_uniform((), seed=seed, epoch=epoch, index=index, purpose=purpose)
        return self(((index.cpu() + epoch) % self.strata + u) / self.strata)


class LogitNormalTimesteps(UniformTimesteps):
    """Logit-normal flow times: few near 0 and 1, most in between (SD3, section 3.1).

    Args:
        mean: Mean of the logit.
        std: Standard deviation of the logit.
        shift: As for :class:`UniformTimesteps`.
        strata: As for :class:`UniformTimesteps`.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, shift: float = 1.0, strata: int = 1) -> None:
        super().__init__(shift, strata)
        if std <= 0:
            raise ValueError(f"logit-normal timesteps need std > 0, got {std}")
        self.mean, self.std = mean, std

    def quantile(self, u: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        normal = torch.special.ndtri(u.double().clamp(1e-9, 1 - 1e-9))
        return torch.sigmoid(self.mean + self.std * normal).to(u.dtype)
