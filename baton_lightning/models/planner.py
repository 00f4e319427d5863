"""VA-Planner: predicts planned tokens of both modalities from two prompts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.models.language import PlanningLLM
from baton_lightning.models.parts import freeze
from baton_lightning.models.precision import parameter_dtype, upcast_half
from baton_lightning.models.sem_mlp import SemHeads


def timed_plan(clip: ClipSpec, video: Float[Tensor, "B K_v C_v"], audio: Float[Tensor, "B K_a C_a"]) -> Plan:
    """A plan with the grid and the times of its clip.

    Args:
        clip: Geometry of the clip.
        video: Video tokens in time-row-column order, standardised.
        audio: Audio tokens, standardised.
    """
    times = [torch.tensor(seconds, device=video.device) for seconds in (clip.keyframe_times, clip.audio_plan_times)]
    return Plan(video, audio, clip.video_plan_grid, *times)


class VAPlanner(nn.Module):
    """The planner (Baton, Section 3): a language model with placeholders and a readout to the perceivers' feature spaces.

    Args:
        clip: Geometry of the clip. With several geometries, the planner is built for the longest; shorter clips use its first tokens.
        llm: Factory of the text language model, a :class:`~baton_lightning.models.language.TextModel`.
        readout: Factory of the readout, called with the clip and the language model's width:
            :class:`~baton_lightning.models.sem_mlp.SemHeads` or :class:`~baton_lightning.models.towers.DualTowers`.
        system: Text before the two prompts.
        placeholder_std: Standard deviation of the placeholders at initialisation; take that of the language model's word embeddings.
        frozen: Names of parts that are not trained, e.g. ``language.llm`` (placeholders are trained) or ``language``; ``*`` stands for any
            characters.

    Raises:
        ValueError: If ``frozen`` names a part that the planner does not have.
    """

    def __init__(
        self,
        clip: ClipSpec,
        llm: Callable[[], nn.Module],
        readout: Callable[[ClipSpec, int], nn.Module] = SemHeads,
        *,
        system: str = "",
        placeholder_std: float = 0.02,
        frozen: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.clip = clip
        self.language = PlanningLLM(clip, llm(), system=system, placeholder_std=placeholder_std)
        self.readout = readout(clip, self.language.llm.width)
        self.video_norm = FeatureNorm(clip.video_plan_width)
        self.audio_norm = FeatureNorm(clip.audio_plan_width)
        freeze(self, frozen, setting="planner")

    def forward(self, video_prompts: list[str], audio_prompts: list[str], clip: ClipSpec | None = None) -> Plan:
        """Plans of standardised features, in float32. The readout computes in the type of its own parameters, which may differ from the
        language model's.

        Args:
            video_prompts: What is seen, one text a clip.
            audio_prompts: What is heard, one text a clip.
            clip: Geometry of the clips, one of the planner's; ``None`` = the first one.
        """
        dtype = parameter_dtype(self.readout)
        clip = clip or self.clip.at()
        states = self.language(video_prompts, audio_prompts, clip)
        return timed_plan(clip, *map(upcast_half, self.readout(*(s.to(dtype) for s in states))))

    def standardise(
        self, video_features: Float[Tensor, "B K_v C_v"], audio_features: Float[Tensor, "B K_a C_a"], clip: ClipSpec | None = None
    ) -> Plan:
        """The plan of a clip's features: the regression target, and the ceiling of any planner.

        Args:
            video_features: Features of the picture.
            audio_features: Features of the sound.
            clip: Geometry of the clips; ``None`` = the first one.

        Raises:
            ValueError: If the features do not have the clip's token counts and widths.
        """
        clip = clip or self.clip.at()
        for name, features, shape in (
            ("video", video_features, (clip.num_video_planned, clip.video_plan_width)),
            ("audio", audio_features, (clip.num_audio_planned, clip.audio_plan_width)),
        ):
            if tuple(features.shape[1:]) != shape:
                raise ValueError(
                    f"{name} features must be [B, {shape[0]}, {shape[1]}] for this clip, got {list(features.shape)}; encode the data "
                    "again with this clip section"
                )
        return timed_plan(clip, self.video_norm(video_features), self.audio_norm(audio_features))
