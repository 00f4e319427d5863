"""Attention of a Wan/Ovi block: tokens in, tokens out, heads in between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from baton_lightning.models.rope import rotate

EPS = 1e-6


@dataclass(frozen=True)
class Located:
    """Tokens and where they are: what an attention reads as keys and values.

    Args:
        tokens: [B, L, C].
        phase: Rotation of their positions [L, D/2] or [B, L, D/2], complex; ``None`` leaves them without a position.
        mask: Tokens that exist [B, L], bool; ``None`` says all, which keeps the fast kernels available.
    """

    tokens: Tensor
    phase: Tensor | None = None
    mask: Tensor | None = None


def attend(
    query: Float[Tensor, "B Lq H D"],
    key: Float[Tensor, "B Lk H D"],
    value: Float[Tensor, "B Lk H Dv"],
    mask: Bool[Tensor, "B Lk"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B Lq C"]:
    """Scaled dot-product attention of every head, heads joined again.

    Args:
        query: Queries, heads split.
        key: Keys, heads split.
        value: Values, heads split.
        mask: Keys that exist; ``None`` says all.
        scale: Factor of the logits; ``None`` is 1 / sqrt(D).
    """
    bias = None if mask is None else mask[:, None, None, :]
    joined = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=bias, scale=scale)
    return joined.transpose(1, 2).flatten(2)


def turn(features: Float[Tensor, "B L H D"], phase: Complex[Tensor, "*B L P"] | None) -> Float[Tensor, "B L H D"]:
    """:func:`rotate`, or the features themselves where there is no position."""
    return features if phase is None else rotate(features, phase)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation in the precision of its input, also where the weight is kept in a higher one (mixed precision)."""

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Self-attention with RMS-normalised, rotated queries and keys; the norm runs over the full width, before the heads split.

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
        query = rotate(self.norm_q(self.q(tokens)).unflatten(-1, self.heads), phase)
        key = rotate(self.norm_k(self.k(tokens)).unflatten(-1, self.heads), phase)
        return self.o(attend(query, key, self.v(tokens).unflatten(-1, self.heads), mask))


class FusionAttention(nn.Module):
    """Cross-attention to the text and, with the same queries and output projection, to the other modality (Ovi).

        y = attend(q, K_text, V_text) + attend(rope(q), rope(K_other), V_other)

    Text keys carry no position, and its pad rows are rows like any other. The other modality's keys turn at the other's own
    positions; both count in video latent frames, so sound and picture of one moment meet.

    Args:
        width: Channels C.
        num_heads: Heads H.
        eps: Epsilon of the norms of text and queries; those of the other modality always have Ovi's 1e-6.
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
        context: Float[Tensor, "B N C"],
        other: Located | None = None,
        plan: Located | None = None,
        plan_phase: Complex[Tensor, "*B L P"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """Reads text and the other branch.

        Args:
            tokens: Normalised tokens of this branch.
            phase: Their rotation.
            context: Embedded text.
            other: Tokens of the other branch; ``None`` if it is absent.
            plan: Planned tokens that share the text's softmax, keys and values (the `concat` placement); usually ``None``.
            plan_phase: Rotation of the queries towards the plan.
        """
        query = self.norm_q(self.q(tokens)).unflatten(-1, self.heads)
        key, value = self.norm_k(self.k(context)).unflatten(-1, self.heads), self.v(context).unflatten(-1, self.heads)
        if plan is None:
            out = attend(query, key, value)
        else:
            plan_key = turn(self.norm_k(self.k(plan.tokens)).unflatten(-1, self.heads), plan.phase)
            plan_value = self.v(plan.tokens).unflatten(-1, self.heads)
            out = attend_jointly(query, turn(query, plan_phase), (key, value), (plan_key, plan_value), plan.mask)
        if other is not None:
            seen = self.pre_attn_norm_fusion(other.tokens)
            other_key = turn(self.norm_k_fusion(self.k_fusion(seen)).unflatten(-1, self.heads), other.phase)
            out = out + attend(rotate(query, phase), other_key, self.v_fusion(seen).unflatten(-1, self.heads), other.mask)
        return self.o(out)


def attend_jointly(
    query: Float[Tensor, "B Lq H D"],
    turned_query: Float[Tensor, "B Lq H D"],
    still: tuple[Tensor, Tensor],
    turned: tuple[Tensor, Tensor],
    mask: Bool[Tensor, "B K"] | None,
) -> Float[Tensor, "B Lq C"]:
    """One softmax over keys without a position and keys with one.

    The logits are q . k for the first and rope(q) . rope(k) for the second; queries (q, rope(q)) against keys (k, 0) and (0, rope(k))
    give both in a single call.

    Args:
        query: Queries as they are.
        turned_query: Queries at their positions.
        still: Keys and values without a position, [B, N, H, D] each.
        turned: Keys and values at their positions, [B, K, H, D] each.
        mask: Which of the turned keys exist.
    """
    (key, value), (turned_key, turned_value) = still, turned
    keys = torch.cat((F.pad(key, (0, key.shape[-1])), F.pad(turned_key, (key.shape[-1], 0))), 1)
    if mask is not None:
        mask = torch.cat((mask.new_ones(key.shape[:2]), mask), 1)
    values = torch.cat((value, turned_value), 1)
    return attend(torch.cat((query, turned_query), -1), keys, values, mask, scale=query.shape[-1] ** -0.5)
