"""Flow matching of a batch: its noise, and the errors of the network's velocities for the generated latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from baton_lightning.batch import Batch, Plan
from baton_lightning.flow import draws
from baton_lightning.flow.condition import Condition
from baton_lightning.flow.given import Given
from baton_lightning.flow.matching import Errors, flow_errors
from baton_lightning.flow.tasks import Known, given_of
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.precision import upcast_half

PROBE_TIMES = 8
"""Number of flow times of a validation, evenly spaced."""


def noise(batch: Batch, *, seed: int, epoch: int, purpose: str) -> dict[str, Tensor]:
    """Counter-based noise for the latents of each modality, float32; a clip's noise is the same in any batch.

    Args:
        batch: Clips with latents.
        seed: Seed of the stream.
        epoch: Epoch of the stream.
        purpose: Name of the stream.
    """
    assert batch.video_latents is not None and batch.audio_latents is not None
    shapes = {"video": tuple(batch.video_latents.shape[1:]), "audio": tuple(batch.audio_latents.shape[1:])}
    return draws.draw_noise(shapes, seed=seed, epoch=epoch, index=batch.index, purpose=purpose, device=batch.video_latents.device)


def probe(batch: Batch, *, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Flow times [B] and noise of a validation, the same in every validation.

    Args:
        batch: Clips with latents.
        seed: Seed of the noise.
    """
    t = ((batch.index % PROBE_TIMES).to(batch.index.device, torch.float32) + 0.5) / PROBE_TIMES
    return t, noise(batch, seed=seed, epoch=0, purpose="probe")


def clean_latents(batch: Batch) -> dict[str, Tensor]:
    """Modality -> latents of a batch, in float32."""
    assert batch.video_latents is not None and batch.audio_latents is not None
    return {"video": upcast_half(batch.video_latents), "audio": upcast_half(batch.audio_latents)}


def held_in(batch: Batch, noise: dict[str, Tensor], known: Sequence[Known] | None) -> Given:
    """What is held of a batch: what its tasks make known, and noise for a modality that a clip lacks.

    Args:
        batch: Clips with latents.
        noise: See :func:`noise`.
        known: What the task of each clip makes known; ``None`` = nothing.
    """
    return given_of(known, clean_latents(batch), noise, {"video": batch.has_video, "audio": batch.has_audio})


def errors(
    dit: DualBranchDiT,
    batch: Batch,
    plan: Plan | None,
    t: Tensor,
    noise: dict[str, Tensor],
    *,
    known: Sequence[Known] | None = None,
    has_plan: Tensor | None = None,
) -> Errors:
    """Errors of the velocities that the transformer predicts for a batch.

    Args:
        dit: The transformer.
        batch: Clips with latents and context.
        plan: Plan, or ``None``.
        t: Flow time [B], 0 = clean, 1 = noise.
        noise: See :func:`noise`.
        known: What the task of each clip makes known; ``None`` generates everything.
        has_plan: Which clips see the plan [B], bool.
    """
    assert batch.context is not None
    condition = Condition(batch.context, batch.context, plan)
    return flow_errors(dit, clean_latents(batch), noise, t, condition, held_in(batch, noise, known), has_plan=has_plan)
