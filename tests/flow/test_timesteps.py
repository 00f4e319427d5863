"""Distributions of flow times."""

import pytest
import torch

from baton_lightning.flow.timesteps import LogitNormalTimesteps, UniformTimesteps

ALL = [UniformTimesteps(), UniformTimesteps(shift=5.0), LogitNormalTimesteps(), LogitNormalTimesteps(mean=-0.5, std=1.4, shift=3.0)]


@pytest.mark.parametrize("timesteps", ALL)
def test_times_lie_between_clean_and_noise_and_grow_with_u(timesteps):
    t = timesteps(torch.linspace(0, 1 - 1e-7, 200))
    assert (t >= 0).all() and (t <= 1).all() and (t.diff() >= 0).all()
    assert t.isfinite().all()


def test_logit_of_a_logit_normal_time_is_normal():
    t = LogitNormalTimesteps(mean=0.3, std=0.7)((torch.arange(2000) + 0.5).double() / 2000)
    logit = torch.logit(t)
    torch.testing.assert_close(torch.stack((logit.mean(), logit.std())), torch.tensor([0.3, 0.7]).double(), atol=5e-3, rtol=0)


@pytest.mark.parametrize("epoch", [0, 3])
def test_strata_cover_the_distribution_evenly_whatever_the_batch(epoch):
    timesteps = UniformTimesteps(strata=8)
    t = timesteps.draw(seed=0, epoch=epoch, index=torch.arange(40, 48))
    assert sorted((t * 8).int().tolist()) == list(range(8))
    assert torch.equal(timesteps.draw(seed=0, epoch=epoch, index=torch.tensor([43])), t[3:4])


def test_without_strata_a_drawn_time_is_the_time_of_its_uniform_number():
    from baton_lightning.flow.draws import draw_uniform

    index = torch.arange(4)
    u = draw_uniform((), seed=1, epoch=0, index=index, purpose="t")
    torch.testing.assert_close(LogitNormalTimesteps().draw(seed=1, epoch=0, index=index), LogitNormalTimesteps()(u))


def test_strata_do_not_change_the_distribution():
    t = UniformTimesteps(strata=4).draw(seed=0, epoch=0, index=torch.arange(4000))
    torch.testing.assert_close(t.sort().values, (torch.arange(4000) + 0.5) / 4000, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("kind", "setting"), [(UniformTimesteps, {"shift": 0.0}), (UniformTimesteps, {"strata": 0}), (LogitNormalTimesteps, {"std": 0.0})]
)
def test_settings_without_meaning_are_refused(kind, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        kind(**setting)
