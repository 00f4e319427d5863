"""The preconditioned velocity: unit variance in and out, the true velocity for Gaussian latents, ragged lists, known latents."""

from __future__ import annotations

import pytest
import torch

from baton_lightning.models.preconditioning import Preconditioning

MEAN, STD = torch.tensor([1.0, -2.0, 0.3]), torch.tensor([0.5, 2.0, 1.0])


@pytest.fixture
def scale() -> Preconditioning:
    made = Preconditioning(3, axis=1)
    made.fit(MEAN, STD)
    return made


@pytest.mark.parametrize("t", [0.02, 0.37, 0.98])
def test_inputs_and_residuals_have_unit_variance_at_every_time(scale: Preconditioning, t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(20_000, 3, 1, 1, 1, generator=generator) * STD.view(3, 1, 1, 1) + MEAN.view(3, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator)
    noisy, times = (1 - t) * clean + t * noise, torch.full((len(clean),), t)
    inputs = scale.network_input(noisy, times, None)
    assert isinstance(inputs, torch.Tensor)
    torch.testing.assert_close(inputs.mean((0, 2, 3, 4)), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3, 4)), torch.ones(3), atol=0.03, rtol=0)
    linear = scale.velocity(noisy, times, None, torch.zeros_like(noisy))
    unit = scale.velocity(noisy, times, None, torch.ones_like(noisy)) - linear
    residual = (noise - clean - linear) / unit
    torch.testing.assert_close(residual.std((0, 2, 3, 4)), torch.ones(3), atol=0.03, rtol=0)
    assert ((residual * inputs).mean((0, 2, 3, 4)).abs() < 0.03).all()  # nothing linear is left to predict


def test_lists_and_known_latents_are_scaled_as_single_clips(scale: Preconditioning) -> None:
    noisy, output, t = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2), torch.tensor([0.2, 0.8])
    known = torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    known[:, 0] = True
    together = scale.velocity(noisy, t, known, output)
    apart = scale.velocity(list(noisy), t, list(known), list(output))
    torch.testing.assert_close(torch.stack(list(apart)), together)
    inputs = scale.network_input(noisy, t, known)
    assert isinstance(inputs, torch.Tensor)
    torch.testing.assert_close(inputs[:, :, 0], (noisy[:, :, 0] - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))  # clean: flow time 0
    torch.testing.assert_close(inputs[:, :, 1], scale.network_input(noisy, t, None)[:, :, 1])  # type: ignore[call-overload]
