"""Check of a checkpoint's position in the order of clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def require_same_order(state: Mapping[str, Any], order: Mapping[str, Any], epoch: int, consumed: int) -> None:
    """Refuses to resume with another order of clips than that of the checkpoint.

    Args:
        state: State in the checkpoint: ``epoch``, ``consumed`` and the order.
        order: Current order: ``batch_size`` (one, or that of each bucket), ``epoch_clips``, ``accumulate``, ``seed`` and ``clips`` of each
            bucket.
        epoch: The trainer's epoch.
        consumed: Clips of the epoch that all ranks together have consumed.

    Raises:
        ValueError: If the batch size changed within an epoch, or the length of epochs, the seed or the clips changed, or the checkpoint
            belongs to another run.
    """
    size = state["batch_size"]
    if state["consumed"] and size != order["batch_size"]:
        raise ValueError(
            f"data: this run stopped in epoch {state['epoch']} after {state['consumed']} clips in batches of {size}, and cannot "
            f"resume within the epoch with batches of {order['batch_size']}; "
            + (f"set data.init_args.batch_size to {size}" if isinstance(size, int) else "restore data.init_args.tokens and multiple_of")
        )
    if (given := state.get("epoch_clips")) != order["epoch_clips"]:
        raise ValueError(
            f"data: this run's epochs have data.init_args.epoch_clips={given}, and it cannot resume with "
            f"{order['epoch_clips']}: clips would be repeated or skipped; restore it"
        )
    if (given := state.get("accumulate", 1)) != order["accumulate"]:
        raise ValueError(
            f"data: this run's steps accumulate {given} batches, and it cannot resume with {order['accumulate']}: epochs would have a "
            f"different length; set trainer.accumulate_grad_batches to {given}"
        )
    if (given := state.get("seed", order["seed"])) != order["seed"]:
        raise ValueError(
            f"data: this run's order is of seed {given}, and it cannot resume with {order['seed']}: clips would be repeated or skipped; "
            f"set seed_everything to {given}, or start a new run from this one's weights"
        )
    if (had := state.get("clips", order["clips"])) != order["clips"]:
        raise ValueError(
            f"data: this run's order is of {had} clips, and it cannot resume with {order['clips']}: clips would be repeated or "
            f"skipped; restore data.init_args.buckets and the data, or start a new run from this one's weights"
        )
    if (state["epoch"], state["consumed"]) != (epoch, consumed):
        raise ValueError(
            f"data: the checkpoint's loader is at epoch {state['epoch']} after {state['consumed']} clips, its trainer at epoch "
            f"{epoch} after {consumed}; it is not a checkpoint of this run"
        )
