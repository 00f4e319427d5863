"""Plans of a validation, and its control: every clip gets the plan of another clip."""

from __future__ import annotations

from baton_lightning.batch import Batch, Plan
from baton_lightning.stages.plan_sources import GroundTruthPlan, NoPlan, PlannedTokens


class ShuffledPlans:
    """Assigns to each clip of a batch the plan of another clip. A batch of one clip gets the plan of the last clip before it of the same
    duration."""

    def __init__(self) -> None:
        self.before: dict[tuple[int, ...], Plan] = {}
        """Numbers of planned tokens -> plan of the last clip with them [1, ...]."""

    def __call__(self, plan: Plan) -> tuple[Plan, bool]:
        """Plans of other clips, and whether there are any.

        If there are none, the clip keeps its own plan, so that all ranks evaluate the transformer equally often. The caller must not count
        it.

        Args:
            plan: Plans of a batch, in the order of validation.
        """
        sizes = plan.video.shape[1], plan.audio.shape[1]
        before, self.before[sizes] = self.before.get(sizes), plan.rows(-1, None)
        if len(plan.video) > 1:
            return plan.roll(), True
        return (plan, False) if before is None else (before, True)

    def forget(self) -> None:
        """Resets the state for a new validation."""
        self.before = {}


def validation_plans(
    source: GroundTruthPlan | PlannedTokens | NoPlan, batch: Batch, shuffled: ShuffledPlans
) -> tuple[dict[str, Plan | None], str, bool]:
    """Plans with which a batch is validated.

    Args:
        source: The plan source of the stage.
        batch: Clips of the validation.
        shuffled: The control.

    Returns:
        Name -> plan; the name of the plan that the stage trains with; whether the clips of `shuffled` have plans of other clips.
    """
    truth = None if isinstance(source, NoPlan) else source.truth(batch)
    if truth is None:
        return {"none": None}, "none", False
    planned = source.planned(batch) if isinstance(source, PlannedTokens) else None
    other, has_other = shuffled(planned or truth)
    plans = {"truth": truth, "shuffled": other, "none": None}
    return (plans, "truth", has_other) if planned is None else (plans | {"planned": planned}, "planned", has_other)
