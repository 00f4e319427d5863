"""Which part of a data set an array task works on: independent processes that share a folder and need not know of each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class ArrayTask(NamedTuple):
    """One of several processes.

    Args:
        number: Which one, counted from 0.
        count: How many there are.
    """

    number: int = 0
    count: int = 1

    def share(self, total: int, *, rank: int = 0, world_size: int = 1) -> range:
        """Which of ``total`` things a rank of this task works on. It depends on nothing that another task may change meanwhile."""
        return range(self.number * world_size + rank, total, self.count * world_size)


def array_task(number: int | None, count: int | None, environment: Mapping[str, str] = os.environ) -> ArrayTask:
    """The task that is asked for; without one, the element of the Slurm array that this process is; without that, the only one.

    Args:
        number: Which task, counted from 0.
        count: How many tasks.
        environment: Variables that Slurm sets; an array may start at any number and have a step.

    Raises:
        ValueError: If one is given without the other, or they contradict each other.
    """
    if number is None and count is None:
        if "SLURM_ARRAY_TASK_COUNT" not in environment:
            return ArrayTask()
        first, step = int(environment.get("SLURM_ARRAY_TASK_MIN", 0)), int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
        number, count = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step, int(environment["SLURM_ARRAY_TASK_COUNT"])
    if count == 1 and number is None:
        return ArrayTask()
    if number is None or count is None or not 0 <= number < count:
        raise ValueError(
            f"data.init_args.task and num_tasks go together, with 0 <= task < num_tasks, got task {number} of {count}; "
            "give both, or neither to take them from Slurm's array, or num_tasks 1 for the whole set"
        )
    return ArrayTask(number, count)
