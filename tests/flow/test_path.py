"""The time convention as properties."""

import pytest
import torch

from baton_lightning.flow.path import interpolate, predict_clean, shift_time, velocity

torch.manual_seed(0)
CLEAN, NOISE, T = torch.randn(3, 4, 5).double(), torch.randn(3, 4, 5).double(), torch.tensor([0.1, 0.5, 0.8]).double()


def test_zero_is_clean_and_one_is_noise():
    assert torch.equal(interpolate(CLEAN, NOISE, torch.zeros(3)), CLEAN)
    assert torch.equal(interpolate(CLEAN, NOISE, torch.ones(3)), NOISE)


def test_velocity_is_the_finite_difference_of_the_path():
    step = 1e-3
    difference = (interpolate(CLEAN, NOISE, T + step) - interpolate(CLEAN, NOISE, T - step)) / (2 * step)
    torch.testing.assert_close(velocity(CLEAN, NOISE), difference)


def test_clean_latents_are_found_back_from_any_time():
    torch.testing.assert_close(predict_clean(interpolate(CLEAN, NOISE, T), velocity(CLEAN, NOISE), T), CLEAN)


def test_every_clip_has_its_own_time():
    together = interpolate(CLEAN, NOISE, T)
    for i in range(3):
        assert torch.equal(together[i], interpolate(CLEAN[i : i + 1], NOISE[i : i + 1], T[i : i + 1])[0])


def test_shift_keeps_the_ends_and_the_order_and_moves_towards_noise():
    t = torch.linspace(0, 1, 50).double()
    shifted = shift_time(t, 5.0)
    assert shifted[[0, -1]].tolist() == [0, 1]
    assert (shifted.diff() > 0).all() and (shifted[1:-1] > t[1:-1]).all()
    assert torch.equal(shift_time(t, 1.0), t)
    torch.testing.assert_close(shift_time(shifted, 1 / 5), t)


def test_latents_keep_their_precision_and_half_of_it_is_refused():
    assert interpolate(CLEAN, NOISE, T).dtype == torch.float64
    assert interpolate(CLEAN.float(), NOISE.float(), T).dtype == torch.float32
    with pytest.raises(ValueError, match="float32 or float64, got latents in torch.bfloat16"):
        interpolate(CLEAN.bfloat16(), NOISE.bfloat16(), T)
