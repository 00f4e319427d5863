"""Stage 1: pretraining of the planner."""

from __future__ import annotations

from baton_lightning.stages.plan_regression import PlanRegression


class PlannerPretraining(PlanRegression):
    """Planner pretraining: language model, placeholders and one Sem-MLP per modality are trained to predict perceiver features.

    It starts from a language model's weights, or, with ``parents: {planner: RUN}``, from an earlier planner with the same architecture. The
    result is a planner.

    Note:
        The paper trains language model and towers in one stage; two stages are our choice. The paper's schedule is this module with
        :class:`~baton_lightning.models.towers.DualTowers` as the planner's readout.
    """
