"""Stage 2: the dual towers align the two plans."""

from __future__ import annotations

from typing import ClassVar

from baton_lightning.stages.plan_regression import PlanRegression


class TowerAlignment(PlanRegression):
    """Tower alignment: dual semantic alignment towers on top of a pretrained planner (Baton, Eq. 3 and 8).

    The language model comes from the parent and moves at its own rate (``rates: {planner.language.llm: 0.1}``) or not at all
    (``frozen: [language]`` of the planner). The readout may differ from the parent's: what both have, the Sem-MLPs, is taken over; the
    towers start fresh and change nothing at first. Hands on the VA-Planner.
    """

    fresh: ClassVar[tuple[str, ...]] = ("readout.",)
    dropped: ClassVar[tuple[str, ...]] = ("readout.",)
    needs_parent: ClassVar[bool] = True
