"""DD: amount of motion, as the mean magnitude of optical flow. More motion than the prompt describes is not better."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.backend import Measured, default_device, import_optional
from baton_lightning.metrics.clips import ClipExcluded
from baton_lightning.metrics.pictures import resize, sample_frames

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

RATE = 8
SIDE = 256
INSTALL = "pip install the torchvision that was built for this torch"


class FlowMagnitude:
    """Mean magnitude of the flow over pixels and steps, at a fixed rate and size, so that clips of any rate and size are comparable.

    Subclasses define ``flow`` and ``flow_by``.
    """

    flow_by: str

    @property
    def protocol(self) -> str:
        return f"{self.flow_by}, mean length in pixels per 1/{RATE} s at a short side of {SIDE}"

    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow [1, 2, Y, X] in pixels between two pictures [1, 3, Y, X] in [0, 1]."""
        raise NotImplementedError

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"magnitude": ...}``, in pixels."""
        frames = sample_frames(clip.frames(), RATE)
        if len(frames) < 2:
            raise ClipExcluded(f"shorter than 1/{RATE} s: nothing can move")
        height, width = frames.shape[-2:]
        scale = SIDE / min(height, width)
        frames = resize(frames, *(round(side * scale / 8) * 8 for side in (height, width)))  # flow networks downsample by 8
        lengths = [self.flow(a, b).norm(dim=1).mean().item() for a, b in zip(frames[:-1].split(1), frames[1:].split(1), strict=True)]
        return {"magnitude": sum(lengths) / len(lengths)}


class Raft(FlowMagnitude):
    """RAFT (large) of torchvision, an optional package whose build must match torch's.

    Args:
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    flow_by = "RAFT large, torchvision C_T_SKHT_V2"

    def __init__(self, device: str | None = None) -> None:
        self.device = device

    @cached_property
    def network(self) -> Any:
        """The flow network."""
        flows = import_optional("torchvision.models.optical_flow", INSTALL)
        return flows.raft_large(weights=flows.Raft_Large_Weights.C_T_SKHT_V2).eval().to(self.device or default_device())

    def flow(self, first: Tensor, second: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        return self.network(first.to(device) * 2 - 1, second.to(device) * 2 - 1)[-1]
