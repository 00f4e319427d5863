"""Where numbers change their type.

Flow, statistics and losses are float32. A network casts floating inputs to the type of its own parameters where they enter, and its
outputs are float32 again (float64 in a float64 network). Nobody else converts, so a network gives the same answer under any strategy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def parameter_dtype(module: nn.Module) -> torch.dtype:
    """Type of a network's first floating parameter; float32 if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float32, if it is of half precision; else as it is."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
