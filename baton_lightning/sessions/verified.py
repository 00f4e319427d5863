"""Checkpoints are held against their manifests before they are opened; a run goes on from the one before where content was changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from baton_lightning.construction.sharding import require_resumable
from baton_lightning.runs import checkpoints
from baton_lightning.runs.saving import gathered
from baton_lightning.sessions.asked_optimizer import AskedOptimizer
from baton_lightning.sessions.segments import Segments


class Verified(Callback):
    """Digests the checkpoint that a session goes on from, every rank its share of the files, before anything of it is opened.

    Where content changed, a run's own checkpoint is set aside as ``step-N.ckpt.damaged`` and the one before is taken.

    Args:
        session: The session, which compares its settings again with what made the one before.
    """

    def __init__(self, session: Segments) -> None:
        self.session = session

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Runs on all ranks, once they have found each other.

        Raises:
            ValueError: If a file was changed and no checkpoint is before it.
        """
        if stage != "fit" or self.session.checkpoint is None:
            return
        first = self.session.checkpoint
        while names := self.changed(trainer):
            self.retreat(trainer, names)
        if (taken := self.session.checkpoint) == first:
            return
        require_resumable(taken, trainer.strategy, trainer.world_size)
        pl_module.resume_checkpoint = taken.resolve()
        load_instead(trainer, taken)
        asked = [callback for callback in trainer.callbacks if isinstance(callback, AskedOptimizer)]
        if self.session.has_another_optimizer and not asked:
            trainer.callbacks.append(AskedOptimizer())

    def changed(self, trainer: Trainer) -> list[str]:
        """Files of the checkpoint whose content is no longer the one that was written; none where no manifest vouches for it."""
        assert self.session.checkpoint is not None
        path = self.session.checkpoint.resolve()
        if not checkpoints.manifest_of(path).exists():
            return []
        shares = gathered(checkpoints.changed(path, trainer.global_rank, trainer.world_size))
        return [name for share in shares for name in share]

    def retreat(self, trainer: Trainer, names: list[str]) -> None:
        """Takes the checkpoint before.

        Raises:
            ValueError: If there is none, or other settings made it.
        """
        session, damaged = self.session, self.session.checkpoint
        assert damaged is not None
        files = ", ".join("it" if name == "." else name for name in names[:3])
        why = f"{damaged} does not have the content that its manifest names ({files} changed after it was written)"
        if not session.before:
            way = "restore it, or begin again with --resume never" if session.own else "restore it, or give another checkpoint"
            raise ValueError(f"{why} and was not opened, and there is none before it; {way}")
        step = session.step
        session.go_on_from(session.before.pop(0))
        session.require_same()
        assert session.checkpoint is not None
        if trainer.is_global_zero:
            kept = checkpoints.set_aside(damaged)
            checkpoints.point(damaged.with_name("last.ckpt"), session.checkpoint)
            print(f"{why}; it is kept as {kept.name} and was not opened", file=sys.stderr, flush=True)
            print(f"resuming {session.folder}/ from {session.checkpoint}, which costs {step - session.step} steps", flush=True)


def load_instead(trainer: Trainer, checkpoint: Path) -> None:
    """Lets a trainer that was told of another checkpoint load this one."""
    connector = trainer._checkpoint_connector
    begin = connector.resume_start

    def begin_here(path: Any = None, **more: Any) -> None:
        begin(str(checkpoint), **more)

    connector.resume_start = begin_here
