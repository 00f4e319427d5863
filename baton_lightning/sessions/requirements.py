"""Checks of the settings of a session that hold for every run. They run before networks are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from baton_lightning import peers
from baton_lightning.runs import manifest
from baton_lightning.sessions import compared


def require_precision(trainer: Any) -> None:
    """Refuses a precision that would round values that must stay float32.

    Args:
        trainer: Settings of the trainer.

    Raises:
        ValueError: If all weights would be stored in half precision.
    """
    if (precision := str(trainer.precision)) in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision {precision} rounds weights, statistics and metrics to half precision; give bf16-mixed, which computes "
            "in bfloat16 and keeps these in float32, or 32-true"
        )


def require_accelerator(trainer: Any) -> None:
    """Refuses a strategy for GPUs on a machine without a GPU, before a process is started for each rank.

    Args:
        trainer: Settings of the trainer.

    Raises:
        ValueError: If DeepSpeed's strategy for GPUs is configured and there is no GPU.
    """
    name = str(getattr(trainer.strategy, "class_path", trainer.strategy))
    if name.rpartition(".")[2].startswith(("DeepSpeedStrategy", "deepspeed")) and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.strategy {name} needs CUDA GPUs, and this machine has none that torch can use; lay a strategy for CPUs over the "
            "experiment, e.g. -c experiments/strategy/zero3_cpu.yaml, or --trainer.strategy=auto --trainer.devices=1"
        )


def require_same(folder: Path, config: dict[str, Any]) -> None:
    """Checks that a finished run has the requested settings.

    Args:
        folder: Folder of the finished run.
        config: Requested resolved configuration.

    Raises:
        ValueError: If settings differ. The message names them.
    """
    flat = compared.flatten
    if differs := compared.differences(flat(manifest.read(folder)["config"]), flat(config)):
        raise ValueError(
            f"{folder}/ holds a finished run of another configuration: {compared.summary(differs)}; give another run.experiment, or "
            "delete the folder"
        )


def require_srun(trainer: Any) -> None:
    """Refuses to run as one of several tasks of a SLURM job if the other tasks were not started.

    Raises:
        ValueError: If tasks are missing. The message names the command to use.
    """
    devices = trainer.devices
    asked = str(len(devices) if isinstance(devices, list) else devices)
    number = int(asked) if asked.isdigit() else max(1, torch.cuda.device_count())
    peers.require_srun(number, int(trainer.num_nodes or 1))


def leave_out_bar(trainer: Any) -> None:
    """Removes the bar of the base configuration under ``enable_progress_bar: false``, with which Lightning refuses any bar."""
    if trainer.enable_progress_bar is False:
        trainer.callbacks = [
            callback for callback in trainer.callbacks or [] if callback.class_path != "callbacks.step_progress.StepProgress"
        ]
