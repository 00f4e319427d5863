"""Type conversions at the input and output of a network.

Flow, statistics and losses are float32. A network casts floating inputs to the type of its own parameters and returns float32 (float64 if
its parameters are float64). No other code converts, so a network gives the same output under any strategy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def parameter_dtype(module: nn.Module) -> torch.dtype:
    """Type of a network's first floating parameter; float32 if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def upcast_half(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it has half precision; otherwise unchanged."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
