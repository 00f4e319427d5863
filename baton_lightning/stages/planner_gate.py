"""Check of a parent planner's gate, which `callbacks.planner_gate` recorded in its manifest at the end of its training."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from baton_lightning.construction.networks import resume_checkpoint
from baton_lightning.runs import manifest

NAME = "planner_gate"


def require_passed(module: Any) -> None:
    """Refuses a planner that failed its gate when training starts. A run without a gate, or without a verdict, is accepted.

    Args:
        module: A stage 3 with ``parents`` and ``accept_failed_planner``, which accepts a planner that failed, with a warning.

    Raises:
        ValueError: If the planner failed and is not accepted.
    """
    trainer = module._trainer
    if trainer is None or "planner" not in module.parents:
        return
    if trainer.state.fn != "fit" or resume_checkpoint(module) is not None:
        return
    run = module.parents["planner"]
    gate = manifest.read(Path(run)).get(NAME, {})
    if gate.get("passed") is not False:
        return
    failed = "; ".join(map(str, gate.get("failed", [])))
    if not module.accept_failed_planner:
        raise ValueError(
            f"the planner of {run}/ must have passed its gate, but {failed}; train it longer or on more clips, or set "
            "model.init_args.accept_failed_planner: true"
        )
    warnings.warn(f"the planner of {run}/ failed its gate and is used nevertheless: {failed}", stacklevel=2)
