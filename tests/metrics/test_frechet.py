import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from baton_lightning.metrics.frechet import FrechetDistance


def draws(n, c=6, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(c, c, generator=generator)
    return torch.randn(n, c, generator=generator) @ mix + shift


def distance(true, made, **settings):
    metric = FrechetDistance(true.shape[1], **settings)
    metric.update(true, made)
    return metric.result()


def test_it_is_the_formula_over_both_sets():
    true, made = draws(50, seed=1), draws(40, seed=2, shift=1.0)
    m, n = true.double().mean(0).numpy(), made.double().mean(0).numpy()
    s, t = np.cov(true.double().numpy().T), np.cov(made.double().numpy().T)
    expected = ((m - n) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    result = distance(true, made)
    assert result.value == pytest.approx(expected, rel=1e-6)
    assert (result.n, result.also) == (40, {"n_true": 50, "n_made": 40})


def test_batches_give_what_the_whole_set_gives():
    true, made = draws(30), draws(30, seed=3)
    metric = FrechetDistance(6)
    for part, other in zip(true.split(7), made.split(7), strict=True):
        metric.update(part, other)
    assert metric.result().value == pytest.approx(distance(true, made).value, rel=1e-9)


def test_a_set_has_no_distance_from_itself_and_a_shift_is_its_square():
    true = draws(40)
    assert distance(true, true).value == pytest.approx(0, abs=1e-6)
    assert distance(true, true + 2).value == pytest.approx(6 * 4, rel=1e-6)


def test_one_vector_a_side_is_refused_as_it_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 true clips for a covariance, got 1"):
        distance(draws(1), draws(1, seed=1))
    with pytest.raises(ValueError, match="at least 100 made clips for a covariance, got 40"):
        distance(draws(120), draws(40), min_clips=100)
    with pytest.raises(ValueError, match="min_clips must be at least 2"):
        FrechetDistance(6, min_clips=1)


def test_fewer_clips_than_features_still_give_a_real_number():
    result = distance(draws(4, c=20), draws(4, c=20, seed=5))
    assert result.value is not None and np.isfinite(result.value) and result.value > 0
