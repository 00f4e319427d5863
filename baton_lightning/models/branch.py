"""One branch of the transformer: a Wan block stack for whichever modality its patches describe."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.models.attention import EPS, FusionAttention, KeyValueSource, SelfAttention
from baton_lightning.models.conditions import BlockConditions, Grid, Latents
from baton_lightning.models.layers import Head, Modulation, mlp, modulate, rows_of_tokens, sinusoid
from baton_lightning.models.patches import Patches
from baton_lightning.models.plan_attention import PlanAttention, PlanOptions
from baton_lightning.models.precision import upcast_half


class Block(nn.Module):
    """Self-attention, cross-attention (text, other branch, plan) and a feed-forward network. Both branches use this class.

    The three steps are methods instead of one ``forward``: the branches exchange their tokens after self-attention, so that each reads the
    other as it is then (:func:`fused_block`).

    Args:
        width: Channels C.
        num_heads: Heads H.
        ffn_width: Hidden channels of the feed-forward network.
        plan: How the plan is read; ``None`` gives Ovi's block, without a plan.
        eps: Epsilon of the norms.
    """

    def __init__(self, width: int, num_heads: int, ffn_width: int, plan: PlanOptions | None, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.parallel = plan is not None and plan.placement == "parallel"
        self.self_attn = SelfAttention(width, num_heads, eps)
        self.norm3 = nn.LayerNorm(width, eps=eps)
        self.cross_attn = FusionAttention(width, num_heads, eps)
        self.plan_attn = PlanAttention(width, num_heads, eps) if plan is not None and plan.own_layers else None
        self.ffn = mlp(width, ffn_width, width)
        self.modulation = Modulation(width)

    def self_attention(self, tokens: Float[Tensor, "B L C"], conditions: BlockConditions) -> Float[Tensor, "B L C"]:
        """Modulated, gated self-attention."""
        shift, scale, gate = (rows_of_tokens(rows, conditions.known) for rows in self.modulation(conditions.modulation)[:3])
        return tokens + gate * self.self_attn(modulate(tokens, shift, scale, self.eps), conditions.phase, conditions.mask)

    def cross_attention(
        self, tokens: Float[Tensor, "B L C"], conditions: BlockConditions, other: KeyValueSource | None
    ) -> Float[Tensor, "B L C"]:
        """Ungated cross-attention to the text and the other branch, then to the plan."""
        concatenated = conditions.plan if self.plan_attn is None else None
        phase, plan_phase = conditions.phase, conditions.plan_phase
        out = tokens + self.cross_attn(self.norm3(tokens), phase, conditions.context, other, concatenated, plan_phase)
        if self.plan_attn is not None and conditions.plan is not None:
            out = out + self.plan_update(tokens if self.parallel else out, conditions, conditions.plan)
        return out

    def plan_update(self, tokens: Float[Tensor, "B L C"], conditions: BlockConditions, plan: KeyValueSource) -> Float[Tensor, "B L C"]:
        """Residual update by the plan: computed, or kept from an earlier evaluation."""
        assert self.plan_attn is not None
        kept = conditions.plan_updates
        if kept is not None and self.plan_attn in kept:
            return kept[self.plan_attn]
        update = self.plan_attn(tokens, conditions.plan_phase, plan)
        if kept is not None:
            kept[self.plan_attn] = update
        return update

    def feed_forward(self, tokens: Float[Tensor, "B L C"], conditions: BlockConditions) -> Float[Tensor, "B L C"]:
        """Modulated, gated feed-forward network."""
        shift, scale, gate = (rows_of_tokens(rows, conditions.known) for rows in self.modulation(conditions.modulation)[3:])
        return tokens + gate * self.ffn(modulate(tokens, shift, scale, self.eps))


class Branch(nn.Module):
    """Embeddings, blocks and head of one modality. Parameter names are those of an Ovi branch.

    Args:
        patches: Converts latents to tokens and back.
        width: Channels C.
        depth: Blocks.
        num_heads: Heads H.
        ffn_width: Hidden channels of the feed-forward networks.
        frequency_width: Width of the time sinusoid.
        text_tokens: Rows of the text context; shorter texts are zero-padded.
        text_width: Channels of the text context.
        plan: How the plan is read; ``None`` gives Ovi's branch, without a plan.
        eps: Epsilon of the norms.

    Raises:
        ValueError: If the width does not split into heads of an even number of dims.
    """

    def __init__(
        self,
        patches: Patches,
        *,
        width: int,
        depth: int,
        num_heads: int,
        ffn_width: int,
        frequency_width: int = 256,
        text_tokens: int = 512,
        text_width: int = 4096,
        plan: PlanOptions | None = None,
        eps: float = EPS,
    ) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"width must split into num_heads heads of an even number of dims, got width={width}, num_heads={num_heads}")
        if frequency_width % 2:
            raise ValueError(f"frequency_width must be even (cosines and sines), got {frequency_width}")
        self.num_heads, self.head_dim, self.frequency_width, self.eps = num_heads, width // num_heads, frequency_width, eps
        self.text_tokens, self.text_width = text_tokens, text_width
        self.patch_embedding = patches
        self.text_embedding = mlp(text_width, width, width)
        self.time_embedding = nn.Sequential(nn.Linear(frequency_width, width), nn.SiLU(), nn.Linear(width, width))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(width, num_heads, ffn_width, plan, eps) for _ in range(depth))
        self.head = Head(width, patches.values, eps)

    def embed_time(self, t: Float[Tensor, "B N"]) -> tuple[Tensor, Tensor]:
        """Time embedding [B, N, C] and its six modulation rows [B, N, 6, C], for flow times in [0, 1]."""
        weight = self.head.modulation
        time = self.time_embedding(sinusoid(t, self.frequency_width).to(weight.dtype))
        return time, self.time_projection(time).unflatten(-1, (6, -1))

    def embed_text(self, context: Float[Tensor, "B N C"]) -> Float[Tensor, "B M W"]:
        """Text padded with zero rows to ``text_tokens`` and projected.

        Raises:
            ValueError: If the text is longer, or not of ``text_width``.
        """
        rows, width = context.shape[1:]
        if rows > self.text_tokens or width != self.text_width:
            raise ValueError(f"context must have at most {self.text_tokens} rows of {self.text_width} channels, got {rows} of {width}")
        return self.text_embedding(F.pad(context, (0, 0, 0, self.text_tokens - rows)))


def fused_block(
    video_block: Block,
    audio_block: Block,
    video: Tensor | None,
    audio: Tensor | None,
    video_conditions: BlockConditions | None,
    audio_conditions: BlockConditions | None,
) -> tuple[Tensor | None, Tensor | None]:
    """One fused block: self-attention of both branches, then cross-attention of each to the other's tokens after self-attention (Ovi)."""
    video_source = audio_source = None
    if video is not None and video_conditions is not None:
        video = video_block.self_attention(video, video_conditions)
        video_source = KeyValueSource(video, video_conditions.phase, video_conditions.mask)
    if audio is not None and audio_conditions is not None:
        audio = audio_block.self_attention(audio, audio_conditions)
        audio_source = KeyValueSource(audio, audio_conditions.phase, audio_conditions.mask)
    if video is not None and video_conditions is not None:
        video = video_block.feed_forward(video_block.cross_attention(video, video_conditions, audio_source), video_conditions)
    if audio is not None and audio_conditions is not None:
        audio = audio_block.feed_forward(audio_block.cross_attention(audio, audio_conditions, video_source), audio_conditions)
    return video, audio


def unpatchify(branch: Branch, tokens: Tensor, conditions: BlockConditions, grids: list[Grid], *, dense: bool) -> Latents:
    """Velocities of a branch's tokens, as one tensor (``dense``) or as a list with one tensor per clip."""
    values, patches = upcast_half(branch.head(tokens, conditions.time, conditions.known)), branch.patch_embedding
    if dense:
        return patches.unpatchify(values, grids[0])
    clip_grids = grids if len(grids) > 1 else grids * len(values)
    return [patches.unpatchify(v[None, : math.prod(grid)], grid)[0] for v, grid in zip(values, clip_grids, strict=True)]
