"""Stage 1: a language model learns to plan."""

from __future__ import annotations

from baton_lightning.stages.plan_regression import PlanRegression


class PlannerPretraining(PlanRegression):
    """Planner pretraining: the language model, its placeholders and one Sem-MLP a modality learn to predict perceiver features.

    Starts from a language model's weights, or, with ``parents: {planner: RUN}``, from an earlier planner of the same make. Hands on
    the planner.

    Note:
        The paper trains language model and towers in one stage; splitting it is our choice. Its own schedule is this module with
        :class:`~baton_lightning.models.towers.DualTowers` as the planner's readout.
    """
