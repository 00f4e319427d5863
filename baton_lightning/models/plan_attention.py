"""How the transformer reads the plan: VCAttn and ACAttn, one new cross-attention in every block of each branch (Baton, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Complex, Float
from torch import Tensor, nn

from baton_lightning.models.attention import EPS, Located, RMSNorm, attend, turn
from baton_lightning.models.rs_rope import Alignment


@dataclass(frozen=True)
class PlanOptions:
    """Choices of the plan's reading; the defaults are Baton's, the others its ablations.

    Args:
        placement: ``cascade`` reads the text first and then the plan; ``parallel`` reads both from the same tokens and adds;
            ``concat`` appends the planned tokens to the text, whose attention reads both in one softmax.
        rs_rope: ``full`` aligns the plan in time and space, ``temporal`` in time alone, ``none`` gives it no position.
        alignment: How the plan's grid is laid on the latents': ``ends`` on ends, or cell ``centres`` on centres.
        timestamps: Whether a plan that carries true times is placed by them instead.

    Note:
        Placement within the block, pre-norm and the zero-initialised output are our reconstruction. A fresh model with ``cascade`` or
        ``parallel`` equals its base exactly; with ``concat`` it cannot, as the plan takes its share of the text's softmax.
    """

    placement: Literal["cascade", "parallel", "concat"] = "cascade"
    rs_rope: Literal["full", "temporal", "none"] = "full"
    alignment: Alignment = "ends"
    timestamps: bool = False

    @property
    def own_layers(self) -> bool:
        """Whether blocks get layers of their own for the plan."""
        return self.placement != "concat"


class PlanAttention(nn.Module):
    """Cross-attention from a branch's tokens (queries) to planned tokens (keys, values), its output zero at the start.

    Args:
        width: Channels C.
        num_heads: Heads H.
        eps: Epsilon of the norms.

    Note:
        Only the output projection starts at zero: a zero gate on top of it would starve both of gradient.
    """

    def __init__(self, width: int, num_heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.heads = (num_heads, width // num_heads)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)

    def forward(self, tokens: Float[Tensor, "B L C"], phase: Complex[Tensor, "*B L P"] | None, plan: Located) -> Float[Tensor, "B L C"]:
        """What the plan adds to each token; a clip whose plan is masked out gets zeros.

        Args:
            tokens: Tokens of the branch, not yet normalised.
            phase: Rotation of the queries towards the plan.
            plan: Planned tokens with their rotation; the mask is all or nothing for a clip.
        """
        query = turn(self.norm_q(self.q(self.norm(tokens))).unflatten(-1, self.heads), phase)
        key = turn(self.norm_k(self.k(plan.tokens)).unflatten(-1, self.heads), plan.phase)
        read = self.o(attend(query, key, self.v(plan.tokens).unflatten(-1, self.heads)))
        return read if plan.mask is None else read * plan.mask[:, :1, None]
