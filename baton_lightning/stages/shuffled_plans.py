"""The control of validation: every clip along the plan of another clip."""

from __future__ import annotations

from baton_lightning.batch import Plan


class ShuffledPlans:
    """Gives each clip of a batch the plan of another clip of it; a batch of one clip gets that of the last clip before it."""

    def __init__(self) -> None:
        self.before: Plan | None = None
        """Plan of the last clip of the batch before [1, ...]."""

    def __call__(self, plan: Plan) -> tuple[Plan, bool]:
        """Plans of other clips, and whether there are any.

        Where there are none, a clip keeps its own plan, so that all ranks evaluate the transformer equally often; it must not count.

        Args:
            plan: Plans of a batch, in the order of validation.
        """
        before, self.before = self.before, plan.rows(-1, None)
        if len(plan.video) > 1:
            return plan.roll(), True
        return (plan, False) if before is None else (before, True)

    def forget(self) -> None:
        """Begins a new validation."""
        self.before = None
