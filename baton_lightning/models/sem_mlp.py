"""Sem-MLP: projection from the language model's width to a perceiver's feature width, and the readout without towers."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec


class SemMLP(nn.Module):
    """The semantic MLP of one modality (Baton, Eq. 3): norm, one hidden layer, linear projection to the feature width.

    Args:
        width: Width C of its input states.
        feature_width: Channels of the perceiver's features.
        expansion: Ratio of the hidden width to ``width``.
    """

    def __init__(self, width: int, feature_width: int, expansion: float = 2.0) -> None:
        super().__init__()
        hidden = round(width * expansion)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, feature_width)

    def forward(self, states: Float[Tensor, "B K C"]) -> Float[Tensor, "B K F"]:
        return self.down(nn.functional.gelu(self.up(self.norm(states)), approximate="tanh"))


class SemHeads(nn.Module):
    """The readout without towers: one Sem-MLP per modality on the planning states H_v, H_a.

    It is used in planner pretraining and in the ablation without towers. Its state-dict keys are a subset of those of
    :class:`~baton_lightning.models.towers.DualTowers`, which therefore starts from the pretrained heads.

    Args:
        clip: Geometry of the clip.
        width: Width of the language model's states.
        expansion: Ratio of a Sem-MLP's hidden width to ``width``.
    """

    def __init__(self, clip: ClipSpec, width: int, expansion: float = 2.0) -> None:
        super().__init__()
        self.video_sem_mlp = SemMLP(width, clip.video_plan_width, expansion)
        self.audio_sem_mlp = SemMLP(width, clip.audio_plan_width, expansion)

    def forward(
        self, video_states: Float[Tensor, "B K_v C"], audio_states: Float[Tensor, "B K_a C"]
    ) -> tuple[Float[Tensor, "B K_v C_v"], Float[Tensor, "B K_a C_a"]]:
        """Planned tokens of both modalities.

        Args:
            video_states: Planning states H_v.
            audio_states: Planning states H_a.
        """
        return self.video_sem_mlp(video_states), self.audio_sem_mlp(audio_states)
