"""Saving and loading of checkpoints: a ModelCheckpoint that never leaves an incomplete checkpoint, and files that contain no code."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy

from baton_lightning.ranks import gathered
from baton_lightning.runs import checkpoints

LATEST, TAG = "latest", "checkpoint"
"""Names in a checkpoint folder: the file in which DeepSpeed looks up the tag to load, and the tag under which Lightning always saves."""


class PlainFile(TorchCheckpointIO):
    """A checkpoint as one file of tensors and plain values. It is written in place: the caller chooses the temporary name.

    Loading never runs code in the file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Loads with ``weights_only=True``, independent of the argument.

        Raises:
            ValueError: If the file is damaged, or contains anything else than tensors and plain values.
        """
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = next(
                (line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "not a checkpoint"
            )
            raise ValueError(
                f"{path} must hold only tensors and plain values, so nothing in it was run or loaded ({reason}); give a checkpoint "
                f"that this library wrote"
            ) from error


class TrainingFile(PlainFile):
    """A checkpoint of a training, from which a run continues."""

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """See :meth:`PlainFile.load_checkpoint`.

        Raises:
            ValueError: Also if the file holds weights alone, e.g. ``weights.safetensors``.
        """
        loaded = super().load_checkpoint(path, map_location, weights_only)
        if "pytorch-lightning_version" not in loaded:
            raise ValueError(
                f"{path} must be a checkpoint of a training, but it holds no state of one; give a file of a run's checkpoints/, or start "
                "from a finished run's weights with model.init_args.parents"
            )
        return loaded


@dataclass
class Written:
    """Files of a checkpoint that one rank wrote.

    Args:
        files: Paths of the files.
        failure: Reason why a write failed; empty if none did.
    """

    files: list[Path] = field(default_factory=list)
    failure: str = ""


class AtomicCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint with checkpoints that are either complete or absent.

    Each checkpoint is written under a temporary name, digested by the ranks that wrote it, listed in a manifest, and renamed. Only then are
    checkpoints removed that ``save_top_k`` does not keep. Each checkpoint is written once: ``last.ckpt`` is a link to the newest, which is
    kept in addition to the best. If a write fails, e.g. on a full disk, all ranks stop with a one-line error, and earlier checkpoints
    remain unchanged.

    Args:
        save_top_k: Number of checkpoints to keep: the best by ``monitor``, or the newest without a monitor. -1 keeps all.
        more: Other arguments of :class:`~lightning.pytorch.callbacks.ModelCheckpoint`.

    Note:
        Lightning's AsyncCheckpointIO is not supported: it returns before data are on disk, and older ones would be removed too early.
    """

    last_model_path: str
    best_model_path: str

    def __init__(self, *args: Any, save_top_k: int = 1, **more: Any) -> None:
        by_time = more.get("monitor") is None and save_top_k > 1  # Lightning refuses this combination
        super().__init__(*args, save_top_k=1 if by_time else save_top_k, **more)
        self.save_top_k = save_top_k

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes temporary files of interrupted writes.

        Raises:
            ValueError: If the trainer has another checkpoint writer, e.g. an asynchronous one.
        """
        super().setup(trainer, pl_module, stage)
        if not isinstance(writer := trainer.strategy.checkpoint_io, TorchCheckpointIO):
            raise ValueError(
                "AtomicCheckpoint needs a writer that has finished when it returns, "
                f"but {type(writer).__name__} saves asynchronously; remove it from trainer.plugins"
            )
        if trainer.is_global_zero and stage == "fit":
            for part in Path(self.dirpath).glob(f"*{checkpoints.ASIDE}"):
                checkpoints.clear(part)

    def on_train_batch_end(self, trainer: Trainer, *given: Any) -> None:
        """Saves only after an optimiser step, because checkpoints do not contain accumulated gradients."""
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, *given)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Saves on all ranks together.

        Raises:
            ValueError: If the checkpoint could not be written.
        """
        checkpoint = Path(filepath)
        part = checkpoints.aside(checkpoint)
        if trainer.is_global_zero:
            checkpoints.clear(part)
        with kept_failures(trainer) as written:
            trainer.save_checkpoint(part, self.save_weights_only)
        entries: dict[str, Any] = {}
        if not written.failure:
            with noted(written):
                entries = checkpoints.described(part, [str(path.relative_to(part)) for path in written.files])
        failures, all_entries = zip(*gathered((written.failure, entries)), strict=True)
        failure = Written(failure=next(filter(None, failures), ""))
        if trainer.is_global_zero and not failure.failure:
            with noted(failure):
                if part.is_dir():
                    (part / LATEST).write_text(TAG)
                entries = {name: entry for entries in all_entries for name, entry in entries.items()}
                entries |= checkpoints.described(part, [name for name in checkpoints.files(part) if name not in entries])
                dropping = {"exclude_frozen_parameters": trainer.strategy, "drops_frozen": trainer.lightning_module}
                frozen = not any(getattr(owner, name, False) for name, owner in dropping.items())
                run = run_of(trainer)
                checkpoints.commit(checkpoint, entries, step=trainer.global_step, ranks=trainer.world_size, frozen=frozen, run=run)
                if (session := session_of(trainer)) is not None:
                    session.note_saved(trainer.global_step)
        if reason := gathered(failure.failure)[0]:
            if trainer.is_global_zero:
                checkpoints.clear(part)
            before, _ = checkpoints.newest(checkpoint.parent)
            left = f"{before} is complete; repeat the command to resume from it" if before else "none was saved before"
            raise ValueError(f"step {trainer.global_step} could not be saved as {checkpoint} ({reason}); {left}. Free disk space first")
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

    def _save_none_monitor_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Saves a checkpoint, and then removes those that are no longer kept."""
        self.best_model_path = self._get_metric_interpolated_filepath_name(monitor_candidates, trainer, self.best_model_path)
        self._save_checkpoint(trainer, self.best_model_path)
        self.drop_oldest(trainer)

    def drop_oldest(self, trainer: Trainer) -> None:
        """Removes all but the newest checkpoints of this run in the folder, including those of earlier sessions or other paths.

        Checkpoints of other runs, and copies under other names, are kept.
        """
        if self.save_top_k < 1 or not trainer.is_global_zero:
            return
        run = run_of(trainer)
        for old in checkpoints.own(Path(self.dirpath), run)[self.save_top_k :]:
            checkpoints.remove(old)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Saves the step if it is not saved yet, updates ``last.ckpt``, and removes the previous checkpoint unless it is among the best."""
        if not self.save_last:
            return
        previous = self.last_model_path
        if self._last_global_step_saved == trainer.global_step:
            self.last_model_path = self._last_checkpoint_saved
        else:  # set before saving, because it is part of the saved state
            self.last_model_path = self._get_metric_interpolated_filepath_name(monitor_candidates, trainer)
            self._save_checkpoint(trainer, self.last_model_path)
        if trainer.is_global_zero:
            link = Path(self.last_model_path).with_name(self.CHECKPOINT_NAME_LAST + self.FILE_EXTENSION)
            checkpoints.point(link, Path(self.last_model_path))
        if self.monitor is None and self.save_top_k > 0:
            self.drop_oldest(trainer)
            return
        best = {*self.best_k_models, self.best_model_path}
        if (
            previous
            and self.save_top_k != -1
            and previous not in best
            and self._should_remove_checkpoint(trainer, previous, self.last_model_path)
        ):
            self._remove_checkpoint(trainer, previous)

    def file_exists(self, filepath: Any, trainer: Trainer) -> bool:
        """Whether a complete checkpoint has this name; an incomplete one may be overwritten."""
        taken = trainer.is_global_zero and not checkpoints.fault(Path(filepath))
        return trainer.strategy.reduce_boolean_decision(taken, all=False)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Includes the checkpoint that this session resumed from. Otherwise each session would leave one behind."""
        return previous != current and Path(self.dirpath).absolute() in Path(previous).absolute().parents

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if trainer.is_global_zero:
            checkpoints.remove(Path(filepath))


def session_of(trainer: Trainer) -> Any:
    """The callback that records the run's sessions; ``None`` if the trainer has none."""
    return next((callback for callback in trainer.callbacks if hasattr(callback, "note_saved")), None)


def run_of(trainer: Trainer) -> float | None:
    """Time at which the run began, in s. It identifies the run among others in the same folder; ``None`` without a record of sessions."""
    session = session_of(trainer)
    return None if session is None else session.run


@contextmanager
def noted(written: Written) -> Iterator[None]:
    """Context that records a failed write instead of raising it. torch's writer raises RuntimeErrors."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        written.failure = getattr(cause, "strerror", None) or str(cause).splitlines()[0]


@contextmanager
def kept_failures(trainer: Trainer) -> Iterator[Written]:
    """Context in which a rank whose write failed still reaches the barriers that follow; otherwise the other ranks would wait forever."""
    strategy, written = trainer.strategy, Written()
    engine = strategy.deepspeed_engine if isinstance(strategy, DeepSpeedStrategy) else None
    writer, name = (strategy.checkpoint_io, "save_checkpoint") if engine is None else (engine.checkpoint_engine, "save")
    write = getattr(writer, name)

    def write_noted(values: Any = None, path: Any = None, **more: Any) -> None:
        values = more.pop("state_dict", values)  # deepspeed passes it by name or by position
        with noted(written):
            write(values, path, **more)
            written.files.append(Path(path))

    setattr(writer, name, write_noted)
    if engine is not None:
        engine.save_checkpoint = partial(engine.save_checkpoint, save_latest=False)  # else rank 0 would write `latest` between two barriers
    try:
        yield written
    finally:
        delattr(writer, name)
        if engine is not None:
            del engine.save_checkpoint
