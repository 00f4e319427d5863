"""P-Acc: questions about a clip, put to a judge; the answers that its prompt demands stand in ``k.checklist.json``.

A checklist is ``[{"question": "Does the dog bark before the door opens?", "answer": "yes"}, ...]``. A judge is any backend that
answers ``{"answers": ["yes", ...]}`` in the order of the questions: a multimodal model, or people through
:class:`~baton_lightning.metrics.backend.Recorded`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.clips import LeftOut
from baton_lightning.metrics.result import ClipMetric

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class PromptAccuracy(ClipMetric):
    """Mean over prompts of the share of right answers; beside it the share of prompts with every answer right.

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
    def require(cls, clip: Clip) -> None:
        checklist(clip)

    def update(self, right: Sequence[Sequence[bool]]) -> None:
        """Counts prompts.

        Args:
            right: Whether each answer is right, one list a prompt.
        """
        for answers in right:
            self.right += sum(answers) / len(answers)
            self.strict += all(answers)
            self.questions += len(answers)
            self.n += 1

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        checks, answers = checklist(clip), measured["answers"]
        if len(answers) != len(checks) or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"P-Acc: {clip.key} has {len(checks)} questions, so a judge gives as many texts, in order; got {answers!r}")
        same = [given.strip().rstrip(".").lower() == check["answer"].strip().lower() for given, check in zip(answers, checks, strict=True)]
        self.update([same])

    def compute(self) -> dict[str, Tensor]:
        return {self.name: self.right / self.n, "n": self.n, "strict": self.strict / self.n, "questions": self.questions}


def checklist(clip: Clip) -> list[dict[str, str]]:
    """Questions and the answers that are right.

    Raises:
        LeftOut: If the clip has none.
        ValueError: If the file holds something else.
    """
    file = clip.file.with_suffix(".checklist.json")
    if not file.exists():
        raise LeftOut("no checklist: k.checklist.json is not beside k.mp4")
    checks = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(checks, list) or not checks or not all(isinstance(c, dict) and {"question", "answer"} <= c.keys() for c in checks):
        raise ValueError(f'{file} must hold [{{"question": ..., "answer": "yes"}}, ...], got {json.dumps(checks)[:80]}')
    return checks
