"""Compares checkpoints with the digests of their manifests before they are opened; a run resumes from the newest unchanged one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from baton_lightning.construction.sharding import require_resumable
from baton_lightning.runs import checkpoints
from baton_lightning.runs.saving import gathered
from baton_lightning.sessions.configured_optimizer import ConfiguredOptimizer
from baton_lightning.sessions.segments import Segments


class Verified(Callback):
    """Checks the digests of the checkpoint that a session resumes from, before any of it is opened. Each rank reads a share of the files.

    If content changed, the run's own checkpoint is renamed to ``step-N.ckpt.damaged`` and the previous one is used.

    Args:
        session: The session. It compares its settings again with those that made the previous checkpoint.
    """

    def __init__(self, session: Segments) -> None:
        self.session = session

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Runs on all ranks after they are connected.

        Raises:
            ValueError: If a file was changed and there is no older checkpoint.
        """
        if stage != "fit" or self.session.checkpoint is None:
            return
        first = self.session.checkpoint
        while names := self.changed(trainer):
            self.use_previous(trainer, names)
        if (taken := self.session.checkpoint) == first:
            return
        require_resumable(taken, trainer.strategy, trainer.world_size)
        pl_module.resume_checkpoint = taken.resolve()
        set_resume_checkpoint(trainer, taken)
        present = [callback for callback in trainer.callbacks if isinstance(callback, ConfiguredOptimizer)]
        if self.session.has_another_optimizer and not present:
            trainer.callbacks.append(ConfiguredOptimizer())

    def changed(self, trainer: Trainer) -> list[str]:
        """Files of the checkpoint whose content changed after they were written; empty if the checkpoint has no manifest."""
        assert self.session.checkpoint is not None
        path = self.session.checkpoint.resolve()
        if not checkpoints.manifest_of(path).exists():
            return []
        shares = gathered(checkpoints.changed(path, trainer.global_rank, trainer.world_size))
        return [name for share in shares for name in share]

    def use_previous(self, trainer: Trainer, names: list[str]) -> None:
        """Switches to the previous checkpoint.

        Raises:
            ValueError: If there is no previous checkpoint, or other settings made it.
        """
        session, damaged = self.session, self.session.checkpoint
        assert damaged is not None
        files = ", ".join("it" if name == "." else name for name in names[:3])
        why = f"{damaged} differs from its manifest ({files} changed after it was written)"
        if not session.before:
            way = "restore it, or start again with --resume never" if session.own else "restore it, or give another checkpoint"
            raise ValueError(f"{why} and was not loaded, and there is no earlier checkpoint; {way}")
        step = session.step
        session.set_checkpoint(session.before.pop(0))
        session.require_same()
        assert session.checkpoint is not None
        if trainer.is_global_zero:
            kept = checkpoints.set_aside(damaged)
            checkpoints.point(damaged.with_name("last.ckpt"), session.checkpoint)
            print(f"{why}; it is kept as {kept.name} and was not loaded", file=sys.stderr, flush=True)
            print(f"resuming {session.folder}/ from {session.checkpoint}, which repeats {step - session.step} steps", flush=True)


def set_resume_checkpoint(trainer: Trainer, checkpoint: Path) -> None:
    """Makes the trainer load this checkpoint instead of the one that was configured."""
    connector = trainer._checkpoint_connector
    resume_start = connector.resume_start

    def resume_from_checkpoint(path: Any = None, **more: Any) -> None:
        resume_start(str(checkpoint), **more)

    connector.resume_start = resume_from_checkpoint
