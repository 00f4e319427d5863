"""Stage 2: training of the dual towers."""

from __future__ import annotations

from typing import ClassVar

from baton_lightning.stages.plan_regression import PlanRegression


class TowerAlignment(PlanRegression):
    """Tower alignment: dual semantic alignment towers on top of a pretrained planner (Baton, Eq. 3 and 8).

    Language model and Sem-MLPs are loaded from the parent. The language model is trained at its own rate
    (``rates: {planner.language.llm: 0.1}``) or frozen (``frozen: [language]`` of the planner). Towers and codebooks are initialised. New
    towers do not change the output at first, so alignment starts at the loss where pretraining stopped. The result is the VA-Planner.
    """

    fresh: ClassVar[tuple[str, ...]] = tuple(f"readout.{m}_{part}." for m in ("video", "audio") for part in ("tower", "codebook"))
    needs_parent: ClassVar[bool] = True
