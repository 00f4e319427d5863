"""Discrete codes instead of continuous planned tokens (ablation "discrete codes")."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.models.towers import DualTowers


class Codebook(nn.Module):
    """A learned codebook: each token is replaced by its nearest code, with a straight-through gradient to the token.

    Args:
        num_codes: Codes N.
        width: Channels C of a code.

    Note:
        Codes are initialised uniformly in [-1 / N, 1 / N], as in VQ-VAE. There is no commitment loss: the regression loss trains both codes
        and tokens.
    """

    def __init__(self, num_codes: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.empty(num_codes, width).uniform_(-1 / num_codes, 1 / num_codes))

    def nearest(self, tokens: Float[Tensor, "B K C"]) -> Int[Tensor, "B K"]:
        """Index of the nearest code of each token."""
        return (self.codes.square().sum(-1) - 2 * tokens @ self.codes.T).argmin(-1)

    def forward(self, tokens: Float[Tensor, "B K C"]) -> Float[Tensor, "B K C"]:
        code = self.codes[self.nearest(tokens.detach())]
        return code + (tokens - tokens.detach())


class DiscreteTowers(DualTowers):
    """Dual towers whose planned tokens are codes of a learned codebook, one codebook a modality (ablation "discrete codes").

    Args:
        clip: Geometry of the clip.
        width: Width of the language model's states.
        num_codes: Codes of each codebook.
        towers: Settings of :class:`~baton_lightning.models.towers.DualTowers`.
    """

    def __init__(self, clip: ClipSpec, width: int, num_codes: int = 512, **towers: Any) -> None:
        super().__init__(clip, width, **towers)
        self.video_codebook = Codebook(num_codes, clip.video_plan_width)
        self.audio_codebook = Codebook(num_codes, clip.audio_plan_width)

    def forward(
        self, video_states: Float[Tensor, "B K_v C"], audio_states: Float[Tensor, "B K_a C"]
    ) -> tuple[Float[Tensor, "B K_v C_v"], Float[Tensor, "B K_a C_a"]]:
        """Planned tokens of both modalities, each a code.

        Args:
            video_states: Planning states H_v.
            audio_states: Planning states H_a.
        """
        video, audio = super().forward(video_states, audio_states)
        return self.video_codebook(video), self.audio_codebook(audio)
