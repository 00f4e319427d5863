"""KL: divergence of an audio tagger's class distributions between a generated clip and the reference clip of the same prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.result import ClipMean

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class PairedKL(ClipMean):
    """Mean over pairs of ``KL(true || made)``, in nats, of the tagger's softmax.

    Args:
        measured_by: Protocol of the tagger.
    """

    protocol = "mean over pairs of KL(true || made) of the softmax, in nats"

    def __init__(self, measured_by: str = "") -> None:
        super().__init__("KL", "", "down", measured_by)

    def update(self, true: Tensor, made: Tensor) -> None:  # type: ignore[override]  # clips come in pairs here
        """Adds pairs.

        Args:
            true: Logits of reference clips, [B, N].
            made: Logits of the generated clips of the same prompts, [B, N].
        """
        if true.shape != made.shape:
            raise ValueError(f"KL: logits of paired clips must have the same shape, got {list(true.shape)} and {list(made.shape)}")
        true, made = true.double().log_softmax(-1), made.double().log_softmax(-1)
        super().update((true.exp() * (true - made)).sum(-1))

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        self.update(*(torch.tensor([measured[side]["logits"]], device=self.device) for side in ("true", "made")))
