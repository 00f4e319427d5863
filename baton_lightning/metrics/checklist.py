"""P-Acc: accuracy of a judge's answers to questions about a clip. Questions and expected answers are in ``k.checklist.json``.

A checklist is ``[{"question": "Does the dog bark before the door opens?", "answer": "yes"}, ...]``. A judge is any backend that returns
``{"answers": ["yes", ...]}`` in the order of the questions: a multimodal model, or people's answers through
:class:`~baton_lightning.metrics.backend.Recorded`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.clips import ClipExcluded
from baton_lightning.metrics.result import ClipMetric
from baton_lightning.plain_files import read_json

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class PromptAccuracy(ClipMetric):
    """Mean over prompts of the share of right answers; ``strict`` is the share of prompts with only right answers.

    Args:
        measured_by: Protocol of the judge.
    """

    name = "P-Acc"
    better = "up"
    protocol = "mean over prompts of the share of right answers"

    def __init__(self, measured_by: str = "") -> None:
        super().__init__(measured_by)
        for state in ("right", "strict"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("questions", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @classmethod
    def check_clip(cls, clip: Clip) -> None:
        checklist(clip)

    def update(self, right: Sequence[Sequence[bool]]) -> None:
        """Adds prompts.

        Args:
            right: Whether each answer is right, one list per prompt.
        """
        for answers in right:
            self.right += sum(answers) / len(answers)
            self.strict += all(answers)
            self.questions += len(answers)
            self.n += 1

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        checks, answers = checklist(clip), measured["answers"]
        if len(answers) != len(checks) or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"P-Acc: a judge must give {len(checks)} texts for the {len(checks)} questions of {clip.key}, got {answers!r}")
        same = [given.strip().rstrip(".").lower() == check["answer"].strip().lower() for given, check in zip(answers, checks, strict=True)]
        self.update([same])

    def compute(self) -> dict[str, Tensor]:
        return {self.name: self.right / self.n, "n": self.n, "strict": self.strict / self.n, "questions": self.questions}


def checklist(clip: Clip) -> list[dict[str, str]]:
    """Questions with the expected answers.

    Raises:
        ClipExcluded: If the clip has no checklist.
        ValueError: If the file is not a checklist.
    """
    file = clip.file.with_suffix(".checklist.json")
    if not file.exists():
        raise ClipExcluded("no checklist: k.checklist.json is not beside k.mp4")
    checks = read_json(file)
    if not isinstance(checks, list) or not checks or not all(isinstance(c, dict) and {"question", "answer"} <= c.keys() for c in checks):
        raise ValueError(f'{file} must hold [{{"question": ..., "answer": "yes"}}, ...], got {json.dumps(checks)[:80]}')
    return checks
