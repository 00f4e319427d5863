"""Samplers: ordinary differential equation solvers from noise to latents, for both modalities at once.

The solvers are diffusers' schedulers. Multistep schedulers keep a history, so each modality has its own scheduler. One evaluation of the
network gives the velocities of both at the same t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from baton_lightning.flow.savings import Savings

NUM_TRAIN_TIMESTEPS = 1000
"""Number of training timesteps of diffusers' schedulers; their times run from 1000 to 0."""

Velocity = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(video latents, audio latents, t [B]) -> (video velocity, audio velocity); noise - clean, t = 1 is noise."""


class Sampler:
    """A solver of dx/dt = velocity from t = 1 to t = 0.

    Args:
        steps: Number of evaluations of the velocity.
        shift: Shifts the steps' times towards noise, see :func:`~baton_lightning.flow.path.shift_time` (Ovi: 5).
        savings: Work that is saved between the steps and within a guided step.

    Raises:
        ValueError: If ``steps`` or ``shift`` is not positive, or a saving is out of range.
    """

    start: float = 1.0

    def __init__(self, steps: int = 50, shift: float = 5.0, savings: Savings = Savings()) -> None:  # noqa: B008
        if steps < 1 or shift <= 0:
            raise ValueError(f"a sampler needs steps >= 1 and shift > 0, got steps={steps}, shift={shift}")
        savings.require_valid()
        self.steps, self.shift, self.savings = steps, shift, savings

    def scheduler(self) -> Any:
        """A new diffusers scheduler."""
        raise NotImplementedError

    def prepared_scheduler(self, device: torch.device) -> Any:
        """A new scheduler with this sampler's times."""
        scheduler = self.scheduler()
        scheduler.set_timesteps(sigmas=torch.linspace(self.start, 0.0, self.steps + 1, dtype=torch.float64)[:-1].numpy(), device=device)
        scheduler.set_begin_index(0)
        return scheduler

    @torch.no_grad()
    def __call__(
        self,
        velocity: Velocity,
        video_noise: Float[Tensor, "B C T Y X"],
        audio_noise: Float[Tensor, "B L A"],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Float[Tensor, "B C T Y X"], Float[Tensor, "B L A"]]:
        """Latents of both modalities.

        Args:
            velocity: Velocity of both modalities at a time t [B].
            video_noise: Standard normal.
            audio_noise: Standard normal.
            progress: Called with (finished steps, all steps) after every step.
        """
        video, audio = video_noise, audio_noise
        video_scheduler, audio_scheduler = self.prepared_scheduler(video.device), self.prepared_scheduler(audio.device)
        for step, timestep in enumerate(video_scheduler.timesteps):
            t = (timestep / NUM_TRAIN_TIMESTEPS).to(video.device, torch.float32).expand(len(video))
            video_velocity, audio_velocity = velocity(video, audio, t)
            video = video_scheduler.step(video_velocity, timestep, video, return_dict=False)[0]
            audio = audio_scheduler.step(audio_velocity, timestep, audio, return_dict=False)[0]
            if progress is not None:
                progress(step + 1, self.steps)
        return video, audio


class EulerSampler(Sampler):
    """Euler's method, first order."""

    def scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(shift=self.shift)


class UniPCSampler(Sampler):
    """UniPC, a second-order predictor-corrector (arXiv 2302.04867), Ovi's sampler.

    Note: it starts at t = 0.999, as Ovi does, because the method needs log(1 - t). Also as in Ovi, the network gets t rounded down to
    thousandths, while the solver's steps use exact times.
    """

    start = 0.999

    def scheduler(self) -> Any:
        from diffusers import UniPCMultistepScheduler

        return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift)
