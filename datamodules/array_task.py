"""The part of a data set on which an array task works. Tasks are independent processes with a common folder, without communication."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class ArrayTask(NamedTuple):
    """One of several processes.

    Args:
        number: Number of the process, counted from 0.
        count: Number of processes.
    """

    number: int = 0
    count: int = 1

    def share(self, total: int, *, rank: int = 0, world_size: int = 1) -> range:
        """Indices of the ``total`` items on which a rank of this task works. They do not depend on the progress of other tasks."""
        return range(self.number * world_size + rank, total, self.count * world_size)


def array_task(number: int | None, count: int | None, environment: Mapping[str, str] = os.environ) -> ArrayTask:
    """The task given by ``number`` and ``count``; without them, the element of the Slurm array; without an array, a single task.

    Args:
        number: Number of the task, counted from 0.
        count: Number of tasks.
        environment: Slurm's variables; an array may start at any number and have a step.

    Raises:
        ValueError: If only one of ``number`` and ``count`` is given (except ``count`` 1), or ``number`` is not in [0, ``count``).
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
            f"data.init_args.task and num_tasks must both be set, with 0 <= task < num_tasks, got task {number} of {count}; "
            "set both, or neither to take them from Slurm's array, or num_tasks 1 for the whole set"
        )
    return ArrayTask(number, count)
