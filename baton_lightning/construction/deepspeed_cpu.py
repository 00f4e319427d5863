"""DeepSpeed's ZeRO on machines without a GPU: the real engine over gloo, for tests of sharded runs."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy


class CPUDeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeedStrategy without its two checks for CUDA; everything else equals the strategy on GPUs.

    Args:
        settings: Settings of :class:`~lightning.pytorch.strategies.DeepSpeedStrategy`, e.g. ``stage`` 1, 2 or 3.
    """

    strategy_name = "deepspeed_cpu"

    def __init__(self, stage: int = 2, logging_batch_size_per_gpu: int = 1, **settings: Any) -> None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is first imported
        super().__init__(stage=stage, logging_batch_size_per_gpu=logging_batch_size_per_gpu, **settings)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)  # the engine compares the index with 0; plain "cpu" has none

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a C++ all-reduce is compiled at start, for a minute
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()
