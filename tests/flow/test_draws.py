"""Draws depend on their name and on nothing else."""

import pytest
import torch

from baton_lightning.flow.draws import draw_normal, draw_uniform

NAME = {"seed": 7, "epoch": 2, "purpose": "noise.video"}


@pytest.mark.parametrize("draw", [draw_normal, draw_uniform])
def test_a_sample_sees_the_same_numbers_in_any_batch(draw):
    whole = draw((3, 4), index=torch.arange(8), **NAME)
    ranks = torch.cat([draw((3, 4), index=torch.arange(rank, 8, 4), **NAME) for rank in range(4)])
    assert torch.equal(ranks.unflatten(0, (4, 2)).transpose(0, 1).flatten(0, 1), whole)
    assert torch.equal(draw((3, 4), index=torch.tensor([5]), **NAME)[0], whole[5])


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 3}, {"purpose": "noise.audio"}, {"index": torch.tensor([1])}])
def test_every_part_of_the_name_counts(change):
    name = NAME | {"index": torch.tensor([0])}
    assert not torch.equal(draw_normal((5,), **name), draw_normal((5,), **(name | change)))


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw_normal((5,), index=torch.arange(2), **NAME)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draw_normal((5,), index=torch.arange(2), **NAME), first)


def test_draws_have_the_distribution_they_name():
    normal, uniform = (draw((64,), index=torch.arange(200), **NAME) for draw in (draw_normal, draw_uniform))
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01
    assert abs(torch.corrcoef(normal[:2])[0, 1]) < 0.4


def test_a_scalar_per_sample_and_another_precision():
    assert draw_uniform((), index=torch.arange(3), **NAME).shape == (3,)
    assert draw_normal((2,), index=torch.arange(3), dtype=torch.float64, **NAME).dtype == torch.float64
