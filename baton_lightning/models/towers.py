"""Dual semantic alignment towers: cross-attention between the video plan and the audio plan (Baton, Eq. 3).

    Hhat_v  = Q_v + H_v + CAttn_v(Q_v, H_v)               modality-specific extraction
    Htil_v  = Hhat_v + CMAttn_v(Hhat_v, H_a)              cross-modal, timestamp RoPE on queries and keys
    H_v_sem = SemMLP_v(Htil_v)                            to the perceiver's width

and symmetrically for audio. In the causal language model audio depends on video, but video does not depend on audio; CMAttn adds the
missing direction. Its timestamp RoPE uses the same clock for both modalities, so that a keyframe can attend to the sound at its own time:
tau_v(k, i) = k / keyframe_fps for every patch i of keyframe k, tau_a(m, j) = m + j / n_a, both in s.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from baton_lightning.clip import ClipSpec
from baton_lightning.models.rope import apply_rotary
from baton_lightning.models.sem_mlp import SemHeads


class TowerAttention(nn.Module):
    """Pre-norm cross-attention without the residual connection; the output projection is initialised to zero.

    Args:
        width: Width C.
        num_heads: Heads H, a divisor of ``width`` with an even head width.

    Raises:
        ValueError: If ``width`` is not a multiple of ``2 * num_heads``.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"towers: num_heads must divide the language model's width into even heads, got {width} / {num_heads}")
        self.num_heads = num_heads
        self.query_norm = nn.RMSNorm(width, eps=1e-6)
        self.state_norm = nn.RMSNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        states: Float[Tensor, "B K C"],
        query_phase: Complex[Tensor, "Q P"] | None = None,
        state_phase: Complex[Tensor, "K P"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        q = self.query(self.query_norm(queries)).unflatten(-1, (self.num_heads, -1))
        k, v = self.key_value(self.state_norm(states)).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        if query_phase is not None and state_phase is not None:
            q, k = apply_rotary(q, query_phase), apply_rotary(k, state_phase)
        attended = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(attended.transpose(1, 2).flatten(2))


class Tower(nn.Module):
    """The tower of one modality, without its Sem-MLP.

    Args:
        num_tokens: Planned tokens of this modality in the longest clip; a shorter clip uses the first queries.
        width: Width C of the language model's states.
        num_heads: Heads.
        learned_queries: Whether each token has a learned query Q ~ N(0, 0.02); without them, the states are the queries.
    """

    def __init__(self, num_tokens: int, width: int, num_heads: int, *, learned_queries: bool = True) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_tokens, width) * 0.02) if learned_queries else None
        self.extraction = TowerAttention(width, num_heads)
        self.cross_modal = TowerAttention(width, num_heads)

    def forward(
        self,
        own: Float[Tensor, "B K C"],
        other: Float[Tensor, "B J C"],
        own_phase: Complex[Tensor, "K P"] | None,
        other_phase: Complex[Tensor, "J P"] | None,
    ) -> Float[Tensor, "B K C"]:
        """Aligned states of this modality.

        Args:
            own: This modality's planning states.
            other: The other modality's planning states.
            own_phase: Rotary phases of this modality's times; ``None`` = no timestamp RoPE.
            other_phase: Rotary phases of the other modality's times.
        """
        if self.queries is None:
            extracted = own + self.extraction(own, own)
        else:
            queries = self.queries[: own.shape[1]].expand(len(own), -1, -1)
            extracted = queries + own + self.extraction(queries, own)
        return extracted + self.cross_modal(extracted, other, own_phase, other_phase)


class DualTowers(SemHeads):
    """The readout with towers; the Sem-MLPs are those of :class:`~baton_lightning.models.sem_mlp.SemHeads`.

    Args:
        clip: Geometry of the clip.
        width: Width C of the language model's states.
        num_heads: Heads of every attention.
        expansion: Ratio of a Sem-MLP's hidden width to ``width``.
        learned_queries: Whether tokens have learned queries; false is the ablation "no learnable queries".
        timestamp_rope: Whether cross-modal attention has rotary embedding of time; false is the ablation "no timestamp RoPE".
        theta: Base of the rotary frequencies.

    Note:
        Our choices: depth 1; CMAttn reads the other modality's language-model states; positions are seconds * n_a; the states H_v, H_a are
        added to their tower's queries, token by token; both attentions are initialised to zero. Newly initialised towers on a trained
        planner therefore equal that planner, apart from the small queries.
    """

    def __init__(
        self,
        clip: ClipSpec,
        width: int,
        num_heads: int = 4,
        expansion: float = 2.0,
        *,
        learned_queries: bool = True,
        timestamp_rope: bool = True,
        theta: float = 1e4,
    ) -> None:
        super().__init__(clip, width, expansion)
        self.video_tower = Tower(clip.longest.num_video_planned, width, num_heads, learned_queries=learned_queries)
        self.audio_tower = Tower(clip.longest.num_audio_planned, width, num_heads, learned_queries=learned_queries)
        self.clip, self.num_heads, self.timestamp_rope, self.theta = clip, num_heads, timestamp_rope, theta

    def timestamp_phases(
        self, head_dim: int, device: torch.device
    ) -> tuple[Complex[Tensor, "K_v P"] | None, Complex[Tensor, "K_a P"] | None]:
        """Rotary phases of each token's time in the longest clip; ``None`` without timestamp RoPE."""
        if not self.timestamp_rope:
            return None, None
        frequencies = self.theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim)
        clip, phases = self.clip.longest, []
        for times, patches in ((clip.keyframe_times, math.prod(clip.plan_grid)), (clip.audio_plan_times, 1)):
            positions = torch.tensor(times, dtype=torch.float64, device=device) * clip.audio_plan_rate
            angles = torch.outer(positions.repeat_interleave(patches), frequencies)
            phases.append(torch.polar(torch.ones_like(angles), angles).to(torch.complex64))
        return phases[0], phases[1]

    def forward(
        self, video_states: Float[Tensor, "B K_v C"], audio_states: Float[Tensor, "B K_a C"]
    ) -> tuple[Float[Tensor, "B K_v C_v"], Float[Tensor, "B K_a C_a"]]:
        """Planned tokens of both modalities.

        Args:
            video_states: Planning states H_v.
            audio_states: Planning states H_a.
        """
        whole = self.timestamp_phases(video_states.shape[-1] // self.num_heads, video_states.device)
        states = (video_states, audio_states)
        video_phase, audio_phase = (p if p is None else p[: own.shape[1]] for p, own in zip(whole, states, strict=True))
        video = self.video_tower(video_states, audio_states, video_phase, audio_phase)
        audio = self.audio_tower(audio_states, video_states, audio_phase, video_phase)
        return super().forward(video, audio)
