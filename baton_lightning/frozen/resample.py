"""Changing a waveform's sample rate on tensors, by a polyphase low-pass filter."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def resample(waveform: Float[Tensor, "B S"], rate: int, new_rate: int) -> Float[Tensor, "B R"]:
    """The waveform at another sample rate, R = ceil(S * new_rate / rate); beyond its ends is silence.

    Args:
        waveform: Samples at ``rate``.
        rate: Sample rate of the input, in Hz.
        new_rate: Sample rate of the output, in Hz.
    """
    if rate == new_rate:
        return waveform
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    phases, reach = _phases(up, down)
    length = -(-waveform.shape[-1] * up // down)
    padded = F.pad(waveform, (reach, reach + down))
    resampled = F.conv1d(padded[:, None], phases.to(waveform)[:, None], stride=down)
    return resampled.transpose(1, 2).flatten(1)[:, :length]


@lru_cache(maxsize=16)
def _phases(up: int, down: int) -> tuple[Float[Tensor, "up taps"], int]:
    """One filter a phase, and how many input samples it reaches back.

    Output n = j * up + i sits at input time j * down + i * down / up, so phase i weighs input j * down + m by the low-pass filter at
    i * down / up - m. On the grid of both rates, ``up`` times finer than the input, these are whole steps.
    """
    slower = max(up, down)
    half = 10 * slower
    fine = torch.arange(-half, half + 1, dtype=torch.float64)
    low_pass = torch.sinc(fine / slower) * torch.kaiser_window(2 * half + 1, periodic=False, beta=5.0, dtype=torch.float64)
    low_pass = low_pass / low_pass.sum() * up
    reach = -(-half // up)
    steps = torch.arange(up)[:, None] * down - torch.arange(-reach, reach + down + 1) * up
    return torch.where(steps.abs() <= half, low_pass[(steps + half).clamp(0, 2 * half)], 0.0).float(), reach
