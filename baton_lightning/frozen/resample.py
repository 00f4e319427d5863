"""Changing a waveform's sample rate on tensors, by a polyphase low-pass filter."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@lru_cache(maxsize=16)
def low_pass(up: int, down: int) -> tuple[Tensor, int]:
    """Windowed-sinc filter at the lower of the two Nyquist frequencies, gain ``up``, and its half length."""
    slower = max(up, down)
    half = 10 * slower
    time = torch.arange(-half, half + 1, dtype=torch.float64)
    taps = torch.sinc(time / slower) * torch.kaiser_window(2 * half + 1, periodic=False, beta=5.0, dtype=torch.float64)
    return (taps / taps.sum() * up).float(), half


def resample(waveform: Float[Tensor, "B S"], rate: int, new_rate: int) -> Float[Tensor, "B R"]:
    """The waveform at another sample rate, R = ceil(S * new_rate / rate); zeros are assumed beyond its ends.

    Args:
        waveform: Samples at ``rate``.
        rate: Sample rate of the input, in Hz.
        new_rate: Sample rate of the output, in Hz.
    """
    if rate == new_rate:
        return waveform
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    taps, half = low_pass(up, down)
    length = -(-waveform.shape[-1] * up // down)
    fine = F.conv_transpose1d(waveform[:, None], taps.to(waveform)[None, None], stride=up)
    fine = F.pad(fine[:, 0, half:], (0, max(0, (length - 1) * down + 1 - fine.shape[-1] + half)))
    return fine[:, ::down][:, :length]
