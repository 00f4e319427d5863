"""Saves and requeues a SLURM job before its time limit. The signal handler only sets a flag; the work is done at the end of a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from baton_lightning import signals

REQUEUED = 75
"""Exit code of a run that stopped for a requeue (EX_TEMPFAIL). It is not 0, so no dependent job takes this one for finished."""


class Requeue(Callback):
    """Saves and requeues the job on SIGUSR1, which SLURM sends before the time limit (``#SBATCH --signal=SIGUSR1@300``).

    The signal is recorded at any time, also during startup. At the end of the next optimiser step all ranks agree to stop and save
    ``last.ckpt`` together. Rank 0 calls ``scontrol requeue`` for this job or array task, and every rank exits with code 75. The next start
    resumes from ``last.ckpt`` of the run folder. The longest step or validation must fit between the signal and the time limit.

    ``predict`` saves no checkpoint. It stops between two shards, and the next start continues with the shards that are not written.

    Outside SLURM this callback does nothing. Lightning's own handler is disabled, because it saves inside the signal handler and runs
    would share its file.
    """

    def __init__(self) -> None:
        self.listens = False
        self.step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listens for SIGUSR1.

        Raises:
            ValueError: If the run saves no ``last.ckpt``, or Lightning would resume from a checkpoint of another job.
        """
        if stage not in ("fit", "predict") or "SLURM_JOB_ID" not in os.environ:
            return
        if stage == "fit":
            self.require_checkpoints(trainer)
        if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:  # the command line has not installed the handler
            signals.note_requeue()
        self.listens = True

    def require_checkpoints(self, trainer: Trainer) -> None:
        """Refuses a run that could not resume from its own checkpoint.

        Raises:
            ValueError: See :meth:`setup`.
        """
        checkpoint = trainer.checkpoint_callback
        if not isinstance(checkpoint, ModelCheckpoint) or not checkpoint.save_last:
            raise ValueError(
                "Requeue: a requeued job resumes only from a last.ckpt, but no ModelCheckpoint has save_last: true; add one to "
                "trainer.callbacks"
            )
        own = Path(str(checkpoint.dirpath or trainer.default_root_dir)) / f"{checkpoint.CHECKPOINT_NAME_LAST}.ckpt"
        if not own.exists() and (foreign := sorted(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"))):
            raise ValueError(
                f"Requeue: Lightning would resume from {foreign[-1]}, which another job left, but this run resumes from its own "
                f"{own}. Delete or move the file"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Saves, requeues and exits if any rank got the signal and an optimiser step has just ended that is not the last one."""
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if not self.listens or not stepped or trainer.global_step == trainer.max_steps:
            return
        if not trainer.strategy.reduce_boolean_decision(signals.REQUEUE.is_set(), all=False):
            return
        checkpoint = trainer.checkpoint_callback
        assert isinstance(checkpoint, ModelCheckpoint)
        checkpoint._save_last_checkpoint(trainer, checkpoint._monitor_candidates(trainer))  # a collective; all ranks call it
        trainer.strategy.barrier("requeue")
        if trainer.is_global_zero:
            requeue(f"step {trainer.global_step} is saved in {checkpoint.last_model_path}")
        trainer.strategy.barrier("requeued")  # a rank that exits earlier could terminate the others
        sys.exit(REQUEUED)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Requeues and exits between two shards. Ranks have different numbers of batches, so the first one to get here acts for all."""
        if not self.listens or not signals.REQUEUE.is_set():
            return
        if not any(getattr(callback, "pending", None) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            requeue("whole shards are written")
            sys.exit(REQUEUED)


def job() -> str:
    """Id of this job, or ``<array>_<task>`` for an array task, as ``scontrol`` expects it."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def requeue(kept: str) -> None:
    """Requeues this job and prints the outcome to the log.

    Args:
        kept: Saved progress, for the message.
    """
    try:
        done = subprocess.run(["scontrol", "requeue", job()], capture_output=True, text=True, timeout=60)
        failed = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    if failed:
        print(f"{kept}, but `scontrol requeue {job()}` failed ({failed}); submit the same script again")
    else:
        print(f"{kept}; requeued {job()}", flush=True)
