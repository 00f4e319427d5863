"""Goes back into SLURM's queue before the time is up, and goes on from there: a flag in the handler, the work at a step's end."""

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
"""Exit code of a run that stopped to be started again (EX_TEMPFAIL): no job that waits for this one takes it for finished."""


class Requeue(Callback):
    """Saves and requeues the job on SIGUSR1, which SLURM sends ahead of the time limit (``#SBATCH --signal=SIGUSR1@300``).

    The signal is noted, also before there is anything to save. At the end of the next optimiser step all ranks agree on it, save
    ``last.ckpt`` together, rank 0 calls ``scontrol requeue`` for this job or this task of an array, and every rank exits with code 75. The
    next start goes on from the run folder's own ``last.ckpt``. The longest step, or validation, has to fit between the signal and the time
    limit. ``predict`` saves nothing: it stops between two shards, and the next start goes on with those that are not written. Outside
    SLURM this does nothing. Lightning's handler, which saves inside the signal and shares one file between runs, is off.
    """

    def __init__(self) -> None:
        self.listens = False
        self.step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes SIGUSR1.

        Raises:
            ValueError: If there is no ``last.ckpt`` to go on from, or Lightning would take another job's.
        """
        if stage not in ("fit", "predict") or "SLURM_JOB_ID" not in os.environ:
            return
        if stage == "fit":
            self.require_checkpoints(trainer)
        if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:  # where no command line noted it from the start
            signals.note_requeue()
        self.listens = True

    def require_checkpoints(self, trainer: Trainer) -> None:
        """Refuses a run that could not go on from what it saves."""
        checkpoint = trainer.checkpoint_callback
        if not isinstance(checkpoint, ModelCheckpoint) or not checkpoint.save_last:
            raise ValueError(
                "Requeue: a job can go on only from a last.ckpt, and no ModelCheckpoint has save_last: true; add one to trainer.callbacks"
            )
        own = Path(str(checkpoint.dirpath or trainer.default_root_dir)) / f"{checkpoint.CHECKPOINT_NAME_LAST}.ckpt"
        if not own.exists() and (foreign := sorted(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"))):
            raise ValueError(
                f"Requeue: Lightning would go on from {foreign[-1]}, which another job left; a run goes on from its own {own}. "
                "Delete or move the file"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Saves, requeues and exits, if any rank was asked to and a step has just been made that is not the last."""
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if not self.listens or not stepped or trainer.global_step == trainer.max_steps:
            return
        if not trainer.strategy.reduce_boolean_decision(signals.REQUEUE.is_set(), all=False):
            return
        checkpoint = trainer.checkpoint_callback
        assert isinstance(checkpoint, ModelCheckpoint)
        checkpoint._save_last_checkpoint(trainer, checkpoint._monitor_candidates(trainer))  # collective: every rank is here
        trainer.strategy.barrier("requeue")
        if trainer.is_global_zero:
            requeue(f"step {trainer.global_step} is saved in {checkpoint.last_model_path}")
        trainer.strategy.barrier("requeued")  # a rank that left earlier could take the others with it
        sys.exit(REQUEUED)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Requeues and exits between two shards. Ranks have different numbers of batches: the first one speaks for all."""
        if not self.listens or not signals.REQUEUE.is_set():
            return
        if not any(getattr(callback, "pending", None) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            requeue("whole shards are written")
            sys.exit(REQUEUED)


def job() -> str:
    """What ``scontrol`` calls this job: an id, or ``<array>_<task>``."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def requeue(kept: str) -> None:
    """Asks SLURM to start this job again; says so either way, because the log is all that is left to read.

    Args:
        kept: What is not lost.
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
