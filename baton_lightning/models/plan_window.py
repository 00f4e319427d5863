"""Windowed attention to the plan: a token reads the planned tokens of the keyframes near its own time.

A token's own keyframe is the keyframe nearest in time, the earlier of two equally near. With a window k it reads keyframes own - k to
own + k, as far as they exist. Planned audio tokens are divided evenly among the keyframes, in order: token l of L_a belongs to keyframe
floor(l N / L_a) of N. The own keyframe of an audio latent is that of the planned audio token nearest in time. Times are those by which
RS-RoPE positions the plan.

Consecutive tokens with the same own keyframe read the same slice of the plan, so each such group is one attention over that slice. It
equals attention over the whole plan with a mask.

Note: the window is our choice. The paper's transformer reads the whole plan everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from baton_lightning.models.attention import attend

DIGITS = 4
"""Decimals of distances in time, in latent frames: times that differ by rounding are equally near."""


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of a branch that read the same planned tokens.

    Args:
        num_tokens: Number of tokens of the branch.
        start: First planned token.
        stop: End of the planned tokens, exclusive.
    """

    num_tokens: int
    start: int
    stop: int


def plan_windows(
    times: Float[Tensor, "T"], planned_times: Float[Tensor, "S"], sizes: tuple[int, int], num_keyframes: int, window: int
) -> tuple[Window, ...]:
    """Windows of all tokens of a branch, in order.

    Args:
        times: Times of the steps of the branch's first axis (latent frames, or audio latents), in latent frames.
        planned_times: Times of the steps of the plan's first axis (keyframes, or planned audio tokens), in latent frames, ascending.
        sizes: Tokens per step of the branch and of the plan.
        num_keyframes: Keyframes N of the plan.
        window: Keyframes before and after the own one that are read, at least 0.
    """
    num_steps = len(planned_times)
    keyframes = [step * num_keyframes // num_steps for step in range(num_steps)]
    nearest = (times[:, None] - planned_times).abs().round(decimals=DIGITS).argmin(1)
    found = []
    for own, group in groupby(keyframes[step] for step in nearest.tolist()):
        read = [step for step, keyframe in enumerate(keyframes) if abs(keyframe - own) <= window]
        found.append(Window(len(list(group)) * sizes[0], read[0] * sizes[1], (read[-1] + 1) * sizes[1]))
    return tuple(found)


def attend_in_windows(
    query: Float[Tensor, "B Lq H D"],
    key: Float[Tensor, "B K H D"],
    value: Float[Tensor, "B K H D"],
    windows: tuple[tuple[Window, ...], ...],
) -> Float[Tensor, "B Lq C"]:
    """Attention of each token to the planned tokens of its window; zeros for padding. It equals masked attention over the whole plan.

    Args:
        query: Queries, heads split.
        key: Keys of the plan, heads split.
        value: Values of the plan, heads split.
        windows: Windows of every clip; one entry if they are equal.
    """
    if len(windows) == 1:
        return attend_to_slices(query, key, value, windows[0])
    clips = zip(query.split(1), key.split(1), value.split(1), windows, strict=True)
    return torch.cat([attend_to_slices(*clip) for clip in clips])


def attend_to_slices(query: Tensor, key: Tensor, value: Tensor, windows: tuple[Window, ...]) -> Tensor:
    """Attention of clips with equal windows."""
    sizes = [window.num_tokens for window in windows]
    padding = query.shape[1] - sum(sizes)
    spans = [(window.start, window.stop) for window in windows]
    queries, keys, values = query.split([*sizes, padding], 1), Slices.apply(key, spans), Slices.apply(value, spans)
    out = torch.cat([attend(*parts) for parts in zip(queries[:-1], keys, values, strict=True)], 1)
    return F.pad(out, (0, 0, 0, padding)) if padding else out


class Slices(torch.autograd.Function):
    """Overlapping slices of the second axis. Their gradients are added into one tensor; autograd would allocate one for each slice."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, spans: list[tuple[int, int]]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.spans = tensor.shape, spans
        return tuple(tensor[:, start:stop] for start, stop in spans)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].new_zeros(ctx.shape)
        for (start, stop), gradient in zip(ctx.spans, gradients, strict=True):
            total[:, start:stop] += gradient
        return total, None
