"""From noise to latents: ordinary differential equation solvers that walk both modalities in lock-step.

The solvers are diffusers' schedulers. A multistep one remembers its past, so each modality has a scheduler of its own; the velocities
of both come from one evaluation at the same time t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

THOUSAND = 1000
"""Training times of the schedulers: theirs run from 1000 to 0."""

Velocity = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(video latents, audio latents, t [B]) -> (video velocity, audio velocity); noise - clean, t = 1 is noise."""


class Sampler:
    """A solver of dx/dt = velocity from t = 1 to t = 0.

    Args:
        steps: Evaluations of the velocity.
        shift: Moves steps towards noise, where the layout is decided (Ovi: 5).

    Raises:
        ValueError: If ``steps`` or ``shift`` is not positive.
    """

    start: float = 1.0

    def __init__(self, steps: int = 50, shift: float = 5.0) -> None:
        if steps < 1 or shift <= 0:
            raise ValueError(f"a sampler needs steps >= 1 and shift > 0, got steps={steps}, shift={shift}")
        self.steps, self.shift = steps, shift

    def scheduler(self) -> Any:
        """A fresh diffusers scheduler."""
        raise NotImplementedError

    def ready(self, device: torch.device) -> Any:
        """A scheduler set to this sampler's times."""
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
        first_frame: Float[Tensor, "B C 1 Y X"] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Float[Tensor, "B C T Y X"], Float[Tensor, "B L A"]]:
        """Latents of both modalities.

        Args:
            velocity: Velocity of both modalities at a time t [B].
            video_noise: Standard normal.
            audio_noise: Standard normal.
            first_frame: Clean first latent frame, put back at every step (image to video).
            progress: Called with (steps done, steps in all) after every step.
        """
        video, audio = video_noise, audio_noise
        video_steps, audio_steps = self.ready(video.device), self.ready(audio.device)
        for step, timestep in enumerate(video_steps.timesteps):
            if first_frame is not None:
                video = torch.cat((first_frame.to(video), video[:, :, 1:]), 2)
            t = (timestep / THOUSAND).to(video.device, torch.float32).expand(len(video))
            video_velocity, audio_velocity = velocity(video, audio, t)
            video = video_steps.step(video_velocity, timestep, video, return_dict=False)[0]
            audio = audio_steps.step(audio_velocity, timestep, audio, return_dict=False)[0]
            if progress is not None:
                progress(step + 1, self.steps)
        return (video if first_frame is None else torch.cat((first_frame.to(video), video[:, :, 1:]), 2)), audio


class EulerSampler(Sampler):
    """Straight steps, first order."""

    def scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(shift=self.shift)


class UniPCSampler(Sampler):
    """UniPC, a second-order predictor-corrector (arXiv 2302.04867), Ovi's sampler.

    Note: it starts at 0.999, as Ovi does: the method takes logarithms, which t = 1 does not have. Also as in Ovi, the network is told the
    time in whole thousandths, rounded down, while the steps themselves go from one exact time to the next.
    """

    start = 0.999

    def scheduler(self) -> Any:
        from diffusers import UniPCMultistepScheduler

        return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift)
