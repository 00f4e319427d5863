"""Resampling of waveforms on tensors with a polyphase low-pass filter."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def resample(waveform: Float[Tensor, "B S"], rate: int, new_rate: int) -> Float[Tensor, "B R"]:
    """The waveform at another sample rate, R = ceil(S * new_rate / rate), zero-padded at both ends.

    Args:
        waveform: Samples at ``rate``.
        rate: Sample rate of the input, in Hz.
        new_rate: Sample rate of the output, in Hz.
    """
    if rate == new_rate:
        return waveform
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    filters, reach = _polyphase_filters(up, down)
    length = -(-waveform.shape[-1] * up // down)
    padded = F.pad(waveform, (reach, reach + down))
    resampled = F.conv1d(padded[:, None], filters.to(waveform)[:, None], stride=down)
    return resampled.transpose(1, 2).flatten(1)[:, :length]


@lru_cache(maxsize=16)
def _polyphase_filters(up: int, down: int) -> tuple[Float[Tensor, "up taps"], int]:
    """One filter per phase, and the number of input samples before the current one that it covers.

    Output n = j * up + i is at input time j * down + i * down / up, so phase i weights input j * down + m by the low-pass filter at
    i * down / up - m. On a grid that is ``up`` times finer than the input, these are whole steps.
    """
    slower = max(up, down)
    half = 10 * slower
    fine = torch.arange(-half, half + 1, dtype=torch.float64)
    low_pass = torch.sinc(fine / slower) * torch.kaiser_window(2 * half + 1, periodic=False, beta=5.0, dtype=torch.float64)
    low_pass = low_pass / low_pass.sum() * up
    reach = -(-half // up)
    steps = torch.arange(up)[:, None] * down - torch.arange(-reach, reach + down + 1) * up
    return torch.where(steps.abs() <= half, low_pass[(steps + half).clamp(0, 2 * half)], 0.0).float(), reach
