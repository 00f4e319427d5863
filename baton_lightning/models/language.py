"""One causal forward of a text language model over prompts and planning placeholders.

    [system ; video prompt ; audio prompt ; <v_start> video placeholders <v_end> ; <a_start> audio placeholders <a_end>]

The hidden states at the placeholders are the planning states: H_v = LLM(T)[v_start+1 : v_end], and H_a in the same way. No text is
generated. The audio region comes last, so under causal attention H_a depends on H_v, but H_v does not depend on H_a. The dual towers add
the missing direction.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec

MARKS = 4  # <v_start>, <v_end>, <a_start>, <a_end>


class TextModel(Protocol):
    """Interface of the planner's text language model, implemented by :class:`baton_lightning.frozen.llm.TextLLM`.

    Attributes:
        width: Width C of its embeddings and hidden states.
        max_positions: Longest sequence that it supports.
    """

    width: int
    max_positions: int

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [B, L, C] of token ids [B, L]."""

    def __call__(self, inputs_embeds: Tensor) -> Tensor:
        """Hidden states [B, L, C] of one causal forward."""


class PlanningLLM(nn.Module):
    """A text language model with planning placeholders appended to its prompt (Baton, VA-Planner).

    Start, end and placeholder embeddings are parameters that are concatenated to ``inputs_embeds``; the vocabulary does not change.

    Args:
        clip: Geometry of the clip.
        llm: The text language model, a :class:`TextModel`.
        system: Text before the two prompts.
        placeholder_std: Standard deviation of the placeholders at initialisation; take that of the language model's word embeddings.

    Raises:
        ValueError: If the planning regions alone are longer than the language model's longest sequence.

    Note:
        Factorised placeholders are our choice: a video placeholder is the sum of a keyframe embedding and a cell embedding, an audio
        placeholder the sum of a second's and a step's embedding. 5 s of 27 x 27 patches thus need 30 + 729 rows instead of 21,870.
        The planning region directly follows each clip's prompt. The padding of shorter prompts comes last, where causal attention never
        reads it. So no mask is needed, and attention can always use its fast causal kernel.
    """

    def __init__(self, clip: ClipSpec, llm: nn.Module, *, system: str = "", placeholder_std: float = 0.02) -> None:
        super().__init__()
        self.clip = clip
        self.llm = llm
        self.system = system
        longest = clip.longest
        keyframes, rows, columns = longest.video_plan_grid
        width = llm.width
        self._check_length(0, longest)
        self.marks = nn.Parameter(torch.randn(MARKS, width) * placeholder_std)
        self.video_keyframe = nn.Parameter(torch.randn(keyframes, width) * placeholder_std)
        self.video_cell = nn.Parameter(torch.randn(rows * columns, width) * placeholder_std)
        self.audio_second = nn.Parameter(torch.randn(math.ceil(longest.seconds), width) * placeholder_std)
        self.audio_step = nn.Parameter(torch.randn(clip.audio_plan_rate, width) * placeholder_std)

    def planning_region(self, clip: ClipSpec | None = None) -> Float[Tensor, "L C"]:
        """Embeddings of both planning regions with their start and end tokens; L = K_v + K_a + 4.

        Args:
            clip: Geometry of the clips; ``None`` = the first one. A shorter clip has the first placeholders of a longer one.
        """
        clip = clip or self.clip.at()
        video = (self.video_keyframe[: clip.num_keyframes, None] + self.video_cell).flatten(0, 1)
        audio = (self.audio_second[:, None] + self.audio_step).flatten(0, 1)[: clip.num_audio_planned]
        video_start, video_end, audio_start, audio_end = self.marks.split(1)
        return torch.cat([video_start, video, video_end, audio_start, audio, audio_end])

    def prompt_ids(
        self, video_prompts: list[str], audio_prompts: list[str], clip: ClipSpec | None = None
    ) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B"]]:
        """Token ids of [system ; video prompt ; audio prompt], padded on the right, and the number of ids without padding.

        Raises:
            ValueError: If a prompt and the planning regions are longer than the language model's longest sequence.
        """
        texts = self.llm.tokenize([self.system, *video_prompts, *audio_prompts])
        system, video, audio = texts[0], texts[1 : 1 + len(video_prompts)], texts[1 + len(video_prompts) :]
        rows = [system + v + a for v, a in zip(video, audio, strict=True)]
        longest = max(map(len, rows))
        self._check_length(longest, clip or self.clip.at())
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for b, row in enumerate(rows):
            ids[b, : len(row)] = torch.tensor(row, dtype=torch.long)
        return ids.to(self.marks.device), torch.tensor([len(row) for row in rows], device=self.marks.device)

    def _check_length(self, prompt: int, clip: ClipSpec) -> None:
        video, audio = clip.num_video_planned, clip.num_audio_planned
        total = prompt + video + audio + MARKS
        if total > self.llm.max_positions:
            grid = " x ".join(map(str, clip.video_plan_grid))
            raise ValueError(
                f"the planning sequence does not fit: prompt {prompt} + video {video} ({grid}) + audio {audio} + {MARKS} marks = {total} "
                f"positions, the language model has {self.llm.max_positions}; use a coarser clip.plan_grid, a lower "
                "clip.keyframe_fps or a shorter prompt"
            )

    def forward(
        self, video_prompts: list[str], audio_prompts: list[str], clip: ClipSpec | None = None
    ) -> tuple[Float[Tensor, "B K_v C"], Float[Tensor, "B K_a C"]]:
        """Planning states H_v and H_a.

        Args:
            video_prompts: What is seen, one text a clip.
            audio_prompts: What is heard, one text a clip.
            clip: Geometry of the clips, one of the network's; ``None`` = the first one.
        """
        clip = clip or self.clip.at()
        ids, lengths = self.prompt_ids(video_prompts, audio_prompts, clip)
        region = self.planning_region(clip)
        prompts = self.llm.embed(ids)
        index = (lengths[:, None] + torch.arange(len(region), device=lengths.device))[..., None].expand(-1, -1, region.shape[1])
        padded = torch.nn.functional.pad(prompts, (0, 0, 0, len(region)))
        states = self.llm(padded.scatter(1, index, region.to(prompts.dtype).expand(len(ids), -1, -1))).gather(1, index)
        _, video, _, _, audio, _ = states.split([1, clip.num_video_planned, 1, 1, clip.num_audio_planned, 1], dim=1)
        return video, audio
