"""Rectified-flow matching of both branches: || v(x_t, t) - (noise - x_0) ||^2 (flow/path.py owns the time convention).

Everything but the network itself is computed in float32, under any precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from baton_lightning.batch import Batch, Plan
from baton_lightning.flow import draws, path
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.precision import upcast_half
from baton_lightning.stages.plan_sources import where_present


def presence(batch: Batch) -> dict[str, Tensor | None]:
    """Modality -> which clips have it [B], bool; ``None`` = all."""
    return {"video": batch.has_video, "audio": batch.has_audio}


def noise(batch: Batch, *, seed: int, epoch: int, purpose: str) -> dict[str, Tensor]:
    """Noise for the latents of each modality, float32, by counter: a clip's is the same in any batch.

    Args:
        batch: Clips with latents.
        seed: Seed of the stream.
        epoch: Epoch of the stream.
        purpose: Name of the stream.
    """
    assert batch.video_latents is not None and batch.audio_latents is not None
    return {
        name: draws.draw_normal(x.shape[1:], seed=seed, epoch=epoch, index=batch.index, purpose=f"{purpose}.{name}").to(x.device)
        for name, x in (("video", batch.video_latents), ("audio", batch.audio_latents))
    }


def errors(
    dit: DualBranchDiT, batch: Batch, plan: Plan | None, t: Tensor, noise: dict[str, Tensor], has_plan: Tensor | None = None
) -> dict[str, Tensor]:
    """Squared error of the predicted velocity of each clip, mean over latents.

    Args:
        dit: The transformer.
        batch: Clips with latents and context.
        plan: Plan, or ``None``.
        t: Flow time [B], 0 = clean, 1 = noise.
        noise: See :func:`noise`.
        has_plan: Which clips see the plan [B], bool.

    Returns:
        Modality -> errors [B].

    Note:
        What a clip lacks is pure noise at any time: nothing can be learnt from it. Both branches run nevertheless, so that ranks stay in
        step.
    """
    assert batch.video_latents is not None and batch.audio_latents is not None and batch.context is not None
    latents, present = {"video": upcast_half(batch.video_latents), "audio": upcast_half(batch.audio_latents)}, presence(batch)
    clean = {k: where_present(x, present[k], noise[k]) for k, x in latents.items()}
    noisy = {k: path.interpolate(clean[k], noise[k], t) for k in clean}
    predicted = dict(zip(clean, dit(noisy["video"], noisy["audio"], t, batch.context, batch.context, plan, has_plan=has_plan), strict=True))
    return {k: (predicted[k] - path.velocity(clean[k], noise[k])).square().flatten(1).mean(1) for k in clean}


def losses(errors: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """``loss_video`` and ``loss_audio``: means over the clips that have the modality; 0 where none has it."""
    found = {}
    for name, present in presence(batch).items():
        error = errors[name]
        weight = torch.ones_like(error) if present is None else present.to(error)
        found[f"loss_{name}"] = (error * weight).sum() / weight.sum().clamp(min=1.0)
    return found
