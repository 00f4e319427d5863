"""Stage 2: the dual towers align the two plans."""

from __future__ import annotations

from typing import ClassVar

from baton_lightning.stages.plan_regression import PlanRegression


class TowerAlignment(PlanRegression):
    """Tower alignment: dual semantic alignment towers on top of a pretrained planner (Baton, Eq. 3 and 8).

    The language model comes from the parent and moves at its own rate (``rates: {planner.language.llm: 0.1}``) or not at all
    (``frozen: [language]`` of the planner). The Sem-MLPs are taken over as well; towers, and codebooks where there are any, start fresh,
    and fresh towers change nothing at first, so alignment starts where pretraining stopped. Hands on the VA-Planner.
    """

    fresh: ClassVar[tuple[str, ...]] = tuple(f"readout.{m}_{part}." for m in ("video", "audio") for part in ("tower", "codebook"))
    needs_parent: ClassVar[bool] = True
