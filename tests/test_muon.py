"""Muon and AdamW in one optimiser: each rule against its reference."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from baton_lightning.muon import MuonAdamW, orthogonalise
from baton_lightning.optim import build_optimizer


def walk(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 5, start: int = 0) -> None:
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4)])
def test_orthogonalising_keeps_the_singular_vectors_and_evens_the_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalise(matrix) @ v.T
    assert 0.6 < inner.diagonal().min() < inner.diagonal().max() < 1.3
    torch.testing.assert_close(inner, inner.diagonal().diag(), atol=1e-3, rtol=0)
    torch.testing.assert_close(orthogonalise(1000 * matrix), orthogonalise(matrix))


def test_a_zero_gradient_moves_nothing() -> None:
    assert not orthogonalise(torch.zeros(3, 5)).any()


def test_what_is_no_matrix_follows_adamw_to_the_last_digits() -> None:
    ours, theirs = ([nn.Parameter(torch.ones(7)), nn.Parameter(torch.ones(2, 3, 4))] for _ in range(2))
    walk(MuonAdamW(ours, lr=0.1, weight_decay=0.2), ours)
    walk(torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.2), theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_groups_that_hold_no_layer_weights_follow_adamw_even_for_tables() -> None:
    ours, theirs = [nn.Parameter(torch.ones(6, 3))], [nn.Parameter(torch.ones(6, 3))]
    walk(MuonAdamW([{"params": ours, "matrices": False}], lr=0.1), ours)
    walk(torch.optim.AdamW(theirs, lr=0.1), theirs)
    torch.testing.assert_close(ours[0], theirs[0])


def test_matrices_follow_muon() -> None:
    ours, theirs = [nn.Parameter(torch.ones(6, 9))], [nn.Parameter(torch.ones(6, 9))]
    walk(MuonAdamW(ours, lr=0.01, weight_decay=0.1), ours)
    walk(torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), theirs)
    torch.testing.assert_close(ours[0], theirs[0], atol=2e-3, rtol=0)  # the library iterates in bfloat16


def test_the_factor_on_matrices_is_theirs_alone() -> None:
    def moved(rate: float) -> list[float]:
        parameters = [nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4))]
        walk(MuonAdamW(parameters, lr=0.01, matrix_rate=rate), parameters, steps=1)
        return [p.norm().item() for p in parameters]

    (matrix, vector), (matrix5, vector5) = moved(1.0), moved(5.0)
    assert matrix5 == pytest.approx(5 * matrix, rel=1e-5)
    assert vector5 == vector


def test_a_restored_optimiser_goes_on_bit_for_bit() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    straight = build_optimizer(module, MuonAdamW)["optimizer"]
    walk(straight, list(module.parameters()), steps=3)
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other.load_state_dict(module.state_dict())
    restored = build_optimizer(other, MuonAdamW)["optimizer"]
    restored.load_state_dict(deepcopy(straight.state_dict()))
    walk(straight, list(module.parameters()), start=3)
    walk(restored, list(other.parameters()), start=3)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_closure_is_called_with_gradients_on() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = MuonAdamW([weight], lr=0.1)

    def closure() -> torch.Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert not torch.equal(weight.detach(), torch.ones(2, 2))


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="must be >= 0"):
        MuonAdamW([nn.Parameter(torch.ones(1))], lr=-1.0)
