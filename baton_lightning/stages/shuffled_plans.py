"""A control for validation: every clip gets the plan of another clip."""

from __future__ import annotations

from baton_lightning.batch import Plan


class ShuffledPlans:
    """Assigns to each clip of a batch the plan of another clip. A batch of one clip gets the plan of the previous batch's last clip."""

    def __init__(self) -> None:
        self.before: Plan | None = None
        """Plan of the last clip of the previous batch [1, ...]."""

    def __call__(self, plan: Plan) -> tuple[Plan, bool]:
        """Plans of other clips, and whether there are any.

        If there are none, the clip keeps its own plan, so that all ranks evaluate the transformer equally often. The caller must not count
        it.

        Args:
            plan: Plans of a batch, in the order of validation.
        """
        before, self.before = self.before, plan.rows(-1, None)
        if len(plan.video) > 1:
            return plan.roll(), True
        return (plan, False) if before is None else (before, True)

    def forget(self) -> None:
        """Resets the state for a new validation."""
        self.before = None
