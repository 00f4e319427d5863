"""Samplers against a flow whose solution is known."""

import pytest
import torch

from baton_lightning.flow.path import broadcast_time
from baton_lightning.flow.sampler import EulerSampler, Sampler, UniPCSampler

MEAN, STD = {"video": 1.5, "audio": -0.5}, 0.3


def gaussian_velocity(x, t, mean):
    """Exact velocity of the flow from N(0, 1) to N(mean, STD^2); a noise z ends at mean + STD z."""
    t = broadcast_time(t, x)
    variance = (1 - t) ** 2 * STD**2 + t**2
    return (t - (1 - t) * STD**2) * (x - (1 - t) * mean) / variance - mean


def both(video, audio, t):
    return gaussian_velocity(video, t, MEAN["video"]), gaussian_velocity(audio, t, MEAN["audio"])


def noises():
    torch.manual_seed(0)
    return torch.randn(4, 2, 3, 2, 2), torch.randn(4, 5, 3)


def error(sampler):
    video, audio = noises()
    video_out, audio_out = sampler(both, video, audio)
    return max((video_out - MEAN["video"] - STD * video).abs().max().item(), (audio_out - MEAN["audio"] - STD * audio).abs().max().item())


@pytest.mark.parametrize("kind", [EulerSampler, UniPCSampler])
def test_both_modalities_arrive_where_the_flow_leads(kind):
    assert error(kind(steps=80, shift=1.0)) < 0.05
    assert error(kind(steps=80, shift=1.0)) < error(kind(steps=8, shift=1.0))


def test_unipc_is_the_better_solver_for_the_same_steps():
    assert error(UniPCSampler(20, 1.0)) < error(EulerSampler(20, 1.0)) / 3


def test_euler_walks_a_straight_line_exactly_in_one_step():
    video, audio = noises()
    arrived = EulerSampler(steps=1)(lambda v, a, t: (video - 2.0, audio - 3.0), video, audio)
    assert torch.allclose(arrived[0], torch.full_like(video, 2.0)) and torch.allclose(arrived[1], torch.full_like(audio, 3.0))


@pytest.mark.parametrize("kind", [EulerSampler, UniPCSampler])
def test_times_fall_from_noise_and_are_shared(kind):
    seen, done = [], []

    def velocity(video, audio, t):
        assert t.shape == (4,) and (t == t[0]).all()
        seen.append(t[0].item())
        return both(video, audio, t)

    kind(steps=6, shift=5.0)(velocity, *noises(), progress=lambda step, steps: done.append((step, steps)))
    expected = [5 * s / (1 + 4 * s) for s in torch.linspace(kind.start, 0, 7)[:-1].tolist()]
    assert seen == pytest.approx([int(1000 * t) / 1000 for t in expected] if kind is UniPCSampler else expected, abs=1e-5)
    assert done == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("kind", [EulerSampler, UniPCSampler])
def test_the_same_noise_gives_the_same_latents_and_a_sampler_remembers_nothing(kind):
    sampler = kind(steps=5)
    first, second = sampler(both, *noises()), sampler(both, *noises())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="steps >= 1"):
        EulerSampler(steps=0)
    with pytest.raises(ValueError, match="shift > 0"):
        UniPCSampler(shift=0.0)
    assert issubclass(UniPCSampler, Sampler)


def test_unipc_is_ovis_loop_over_two_schedulers():
    import numpy
    from diffusers import UniPCMultistepScheduler

    start = video, audio = noises()
    pair = [UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5) for _ in range(2)]
    for scheduler in pair:
        scheduler.set_timesteps(sigmas=numpy.linspace(0.999, 0, 9)[:-1])
    for timestep in pair[0].timesteps:
        assert not timestep.is_floating_point()
        velocities = both(video, audio, (timestep / 1000).expand(4))
        video, audio = (s.step(v, timestep, x)[0] for s, v, x in zip(pair, velocities, (video, audio), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(UniPCSampler(8, 5.0)(both, *start), (video, audio), strict=True))
