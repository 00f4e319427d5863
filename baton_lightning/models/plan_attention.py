"""Cross-attention of the transformer to the plan: VCAttn and ACAttn, one in every block of each branch (Baton, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Complex, Float
from torch import Tensor, nn

from baton_lightning.models.attention import EPS, KeyValueSource, RMSNorm, apply_rotary, attend
from baton_lightning.models.plan_window import attend_in_windows
from baton_lightning.models.rs_rope import Alignment

PLAN_LAYERS = ("plan_attn", "latent_mlp")
"""Submodules of a transformer that read the plan, which a pretrained Ovi lacks."""


@dataclass(frozen=True)
class PlanOptions:
    """Options of plan attention. The defaults are Baton's; the other values are its ablations.

    Args:
        placement: ``cascade`` attends to the text first and then to the plan; ``parallel`` attends to both from the same tokens and adds
            the results; ``concat`` appends the planned tokens to the text, so that one softmax covers both.
        rs_rope: ``full`` aligns the plan in time and space, ``temporal`` in time only, ``none`` gives it no position.
        alignment: Alignment of the plan's grid with the latents' grid: ``ends`` on ends, or cell ``centres`` on centres.
        timestamps: Whether a plan with times is positioned by them, instead of by its grid.
        window: A latent reads the planned tokens of its own keyframe, which is the nearest in time, and of this many keyframes before and
            after it; for sound, see :mod:`~baton_lightning.models.plan_window`. ``None`` reads the whole plan, as the paper does.

    Note:
        Placement within the block, pre-norm and the zero-initialised output are our reconstruction. A newly initialised model with
        ``cascade`` or ``parallel`` equals its base exactly. With ``concat`` it differs, because the plan is part of the text's softmax.
    """

    placement: Literal["cascade", "parallel", "concat"] = "cascade"
    rs_rope: Literal["full", "temporal", "none"] = "full"
    alignment: Alignment = "ends"
    timestamps: bool = False
    window: int | None = None

    def require_valid(self) -> None:
        """Refuses windows that make no sense.

        Raises:
            ValueError: If ``window`` is negative, or given for ``concat``, where text and plan share one softmax.
        """
        if self.window is not None and self.window < 0:
            raise ValueError(f"plan_attention.window counts keyframes on either side, so it must be null or at least 0, got {self.window}")
        if self.window is not None and not self.own_layers:
            raise ValueError(
                f"plan_attention.window needs layers of the plan's own, placement cascade or parallel; got window {self.window} with concat"
            )

    @property
    def own_layers(self) -> bool:
        """Whether blocks have separate layers for the plan."""
        return self.placement != "concat"


class PlanAttention(nn.Module):
    """Cross-attention from a branch's tokens (queries) to planned tokens (keys, values); the output is zero at initialisation.

    Args:
        width: Channels C.
        num_heads: Heads H.
        eps: Epsilon of the norms.

    Note:
        Only the output projection is initialised to zero. With an additional zero gate, neither would get a gradient.
    """

    def __init__(self, width: int, num_heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.heads = (num_heads, width // num_heads)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)

    def forward(
        self, tokens: Float[Tensor, "B L C"], phase: Complex[Tensor, "*B L P"] | None, plan: KeyValueSource
    ) -> Float[Tensor, "B L C"]:
        """Residual update of each token by the plan; zeros for a clip whose plan is masked.

        Args:
            tokens: Tokens of the branch, before normalisation.
            phase: Rotary phases of the queries.
            plan: Planned tokens with their rotary phases; the mask has one value for all tokens of a clip.
        """
        query = self.queries(tokens, phase)
        key, value = plan.project(self, lambda: self.keys_and_values(plan))
        update = self.o(attend(query, key, value) if plan.windows is None else attend_in_windows(query, key, value, plan.windows))
        return update if plan.mask is None else update * plan.mask[:, :1, None]

    def queries(self, tokens: Tensor, phase: Tensor | None) -> Tensor:
        """Queries of the branch's tokens, rotated by their phases."""
        return apply_rotary(self.norm_q(self.q(self.norm(tokens))).unflatten(-1, self.heads), phase)

    def keys_and_values(self, plan: KeyValueSource) -> tuple[Tensor, Tensor]:
        """Keys, rotated by the plan's phases, and values."""
        key = apply_rotary(self.norm_k(self.k(plan.tokens)).unflatten(-1, self.heads), plan.phase)
        return key, self.v(plan.tokens).unflatten(-1, self.heads)
