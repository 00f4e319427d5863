"""Self-attention and cross-attention of a Wan/Ovi block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from baton_lightning.models.rope import apply_rotary

EPS = 1e-6


@dataclass(frozen=True)
class KeyValueSource:
    """Tokens that an attention reads as keys and values, with their positions.

    Args:
        tokens: [B, L, C].
        phase: Rotary phases of their positions [L, D/2] or [B, L, D/2], complex; ``None`` gives them no position.
        mask: Which tokens exist [B, L], bool; ``None`` = all. Without a mask, torch can use its fast kernels.
        windows: Which of them each query reads: a :class:`~baton_lightning.models.plan_window.Window` for each group of queries, for every
            clip (one entry if they are equal); ``None`` = all.
        projections: Keys and values that layers made of the tokens, kept for further evaluations; ``None`` keeps none.
    """

    tokens: Tensor
    phase: Tensor | None = None
    mask: Tensor | None = None
    windows: tuple[tuple[Any, ...], ...] | None = None
    projections: dict[nn.Module, tuple[Tensor, Tensor]] | None = None

    def project(self, layer: nn.Module, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer: ``make()``, or what it gave at the first call if projections are kept."""
        if self.projections is None:
            return make()
        if layer not in self.projections:
            self.projections[layer] = make()
        return self.projections[layer]


def attend(
    query: Float[Tensor, "B Lq H D"],
    key: Float[Tensor, "B Lk H D"],
    value: Float[Tensor, "B Lk H Dv"],
    mask: Bool[Tensor, "B Lk"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B Lq C"]:
    """Multi-head scaled dot-product attention; the heads are concatenated in the output.

    Args:
        query: Queries, heads split.
        key: Keys, heads split.
        value: Values, heads split.
        mask: Which keys exist, bool; ``None`` = all.
        scale: Factor of the logits; ``None`` is 1 / sqrt(D).
    """
    bias = None if mask is None else mask[:, None, None, :]
    joined = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=bias, scale=scale)
    return joined.transpose(1, 2).flatten(2)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation in the precision of its input, also if the weight has a higher precision (mixed precision)."""

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Self-attention with rotary embedding and RMS-normalised queries and keys. The norm runs over the full width, before the heads split.

    Args:
        width: Channels C.
        num_heads: Heads H.
        eps: Epsilon of the norms.
    """

    def __init__(self, width: int, num_heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.heads = (num_heads, width // num_heads)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)

    def forward(
        self, tokens: Float[Tensor, "B L C"], phase: Complex[Tensor, "*B L P"], mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L C"]:
        query = apply_rotary(self.norm_q(self.q(tokens)).unflatten(-1, self.heads), phase)
        key = apply_rotary(self.norm_k(self.k(tokens)).unflatten(-1, self.heads), phase)
        return self.o(attend(query, key, self.v(tokens).unflatten(-1, self.heads), mask))


class FusionAttention(nn.Module):
    """Cross-attention to the text and, with the same queries and output projection, to the other modality (Ovi).

        y = attend(q, K_text, V_text) + attend(rope(q), rope(K_other), V_other)

    Text keys have no position, and the pad rows of the text are attended to. Queries and the other modality's keys are rotated by their own
    positions. Both count in video latent frames, so sound and picture of the same moment have the same position.

    Args:
        width: Channels C.
        num_heads: Heads H.
        eps: Epsilon of the norms of text and queries; the norms of the other modality always use Ovi's 1e-6.
    """

    def __init__(self, width: int, num_heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.heads = (num_heads, width // num_heads)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)
        self.k_fusion, self.v_fusion = nn.Linear(width, width), nn.Linear(width, width)
        self.pre_attn_norm_fusion = nn.LayerNorm(width, eps=EPS)
        self.norm_k_fusion = RMSNorm(width, eps=EPS)

    def forward(
        self,
        tokens: Float[Tensor, "B L C"],
        phase: Complex[Tensor, "*B L P"],
        context: KeyValueSource,
        other: KeyValueSource | None = None,
        plan: KeyValueSource | None = None,
        plan_phase: Complex[Tensor, "*B L P"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """Attention output of the text and the other branch.

        Args:
            tokens: Normalised tokens of this branch.
            phase: Rotary phases of their positions.
            context: Embedded text.
            other: Tokens of the other branch; ``None`` if it is absent.
            plan: Planned tokens that share the text's softmax and projections (the `concat` placement); ``None`` for other placements.
            plan_phase: Rotary phases of the queries for attention to the plan.
        """
        query = self.norm_q(self.q(tokens)).unflatten(-1, self.heads)
        if plan is None:
            out = attend(query, *self.keys_and_values(context))
        else:
            rotated = self.keys_and_values(plan)
            out = attend_jointly(query, apply_rotary(query, plan_phase), self.keys_and_values(context), rotated, plan.mask)
        if other is not None:
            source_tokens = self.pre_attn_norm_fusion(other.tokens)
            other_key = apply_rotary(self.norm_k_fusion(self.k_fusion(source_tokens)).unflatten(-1, self.heads), other.phase)
            out = out + attend(apply_rotary(query, phase), other_key, self.v_fusion(source_tokens).unflatten(-1, self.heads), other.mask)
        return self.o(out)

    def keys_and_values(self, source: KeyValueSource) -> tuple[Tensor, Tensor]:
        """Keys, rotated by the source's phases, and values of text or plan."""

        def make() -> tuple[Tensor, Tensor]:
            key = apply_rotary(self.norm_k(self.k(source.tokens)).unflatten(-1, self.heads), source.phase)
            return key, self.v(source.tokens).unflatten(-1, self.heads)

        return source.project(self, make)


def attend_jointly(
    query: Float[Tensor, "B Lq H D"],
    rotated_query: Float[Tensor, "B Lq H D"],
    unrotated: tuple[Tensor, Tensor],
    rotated: tuple[Tensor, Tensor],
    mask: Bool[Tensor, "B K"] | None,
) -> Float[Tensor, "B Lq C"]:
    """One softmax over keys without a position and keys with one.

    The logits are q . k for the first and rope(q) . rope(k) for the second. Concatenated queries (q, rope(q)) and keys (k, 0), (0, rope(k))
    give both in a single call.

    Args:
        query: Queries without rotation.
        rotated_query: Queries rotated by their positions.
        unrotated: Keys and values without a position, [B, N, H, D] each.
        rotated: Rotated keys and their values, [B, K, H, D] each.
        mask: Which of the rotated keys exist.
    """
    (key, value), (rotated_key, rotated_value) = unrotated, rotated
    keys = torch.cat((F.pad(key, (0, key.shape[-1])), F.pad(rotated_key, (key.shape[-1], 0))), 1)
    if mask is not None:
        mask = torch.cat((mask.new_ones(key.shape[:2]), mask), 1)
    values = torch.cat((value, rotated_value), 1)
    return attend(torch.cat((query, rotated_query), -1), keys, values, mask, scale=query.shape[-1] ** -0.5)
