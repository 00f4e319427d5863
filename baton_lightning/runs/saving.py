"""How a run saves and loads: ModelCheckpoint that never leaves half a checkpoint, files without code, digests before anything is opened."""

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
"""Which of a folder's checkpoints DeepSpeed is to open; Lightning always saves under this name."""


class PlainFile(TorchCheckpointIO):
    """One file of tensors and plain values, written in place: whoever calls sees to its name. Code in it is never run."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Loads with ``weights_only=True``, whatever is asked for.

        Raises:
            ValueError: If the file is damaged, or holds anything else than tensors and plain values.
        """
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = next(
                (line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "not a checkpoint"
            )
            raise ValueError(
                f"{path} must hold tensors and plain values only, nothing in it was run or loaded ({reason}); take a checkpoint of your own"
            ) from error


@dataclass
class Written:
    """What a rank wrote of a checkpoint.

    Args:
        files: Paths.
        failure: Why a write failed; empty if none did.
    """

    files: list[Path] = field(default_factory=list)
    failure: str = ""


class AtomicCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose checkpoints are whole or not there.

    Each is written aside, digested by the ranks that wrote it, named by a manifest beside it, renamed, and only then are those removed
    that ``save_top_k`` no longer keeps. Every checkpoint is written once: ``last.ckpt`` is a link to the newest, which is kept besides
    the best. If a write fails, on a full disk say, all ranks stop with one line; what was saved before is left as it was.

    Args:
        save_top_k: How many are kept: the best by ``monitor``, or without one the newest. -1 keeps all.
        more: Other arguments of :class:`~lightning.pytorch.callbacks.ModelCheckpoint`.

    Note:
        Not with Lightning's AsyncCheckpointIO: it returns before anything is on disk, when older checkpoints are already being removed.
    """

    last_model_path: str
    best_model_path: str

    def __init__(self, *args: Any, save_top_k: int = 1, **more: Any) -> None:
        by_time = more.get("monitor") is None and save_top_k > 1  # which Lightning refuses
        super().__init__(*args, save_top_k=1 if by_time else save_top_k, **more)
        self.save_top_k = save_top_k

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clears away what a run that was cut off left.

        Raises:
            ValueError: If saving is asynchronous.
        """
        super().setup(trainer, pl_module, stage)
        if type(writer := trainer.strategy.checkpoint_io) not in (TorchCheckpointIO, PlainFile):
            raise ValueError(
                "AtomicCheckpoint digests what was written and removes older checkpoints only then, but "
                f"{type(writer).__name__} saves in its own time; take it out of trainer.plugins"
            )
        if trainer.is_global_zero and stage == "fit":
            for part in Path(self.dirpath).glob(f"*{checkpoints.ASIDE}"):
                checkpoints.clear(part)

    def on_train_batch_end(self, trainer: Trainer, *given: Any) -> None:
        """Saves after an optimiser step, never amid one: accumulated gradients are in no checkpoint."""
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, *given)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Saves on all ranks together.

        Raises:
            ValueError: If it could not be written.
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
                frozen = not getattr(trainer.strategy, "exclude_frozen_parameters", False)
                run = run_of(trainer)
                checkpoints.commit(checkpoint, entries, step=trainer.global_step, ranks=trainer.world_size, frozen=frozen, run=run)
                if (session := session_of(trainer)) is not None:
                    session.note_saved(trainer.global_step)
        if reason := gathered(failure.failure)[0]:
            if trainer.is_global_zero:
                checkpoints.clear(part)
            before, _ = checkpoints.newest(checkpoint.parent)
            left = f"{before} is whole, and the same command goes on from it" if before else "none was saved before"
            raise ValueError(f"step {trainer.global_step} could not be saved as {checkpoint} ({reason}); {left}. Make room first")
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

    def _save_none_monitor_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Saves, and only then drops those that are no longer kept."""
        self.best_model_path = self._get_metric_interpolated_filepath_name(monitor_candidates, trainer, self.best_model_path)
        self._save_checkpoint(trainer, self.best_model_path)
        self.drop_oldest(trainer)

    def drop_oldest(self, trainer: Trainer) -> None:
        """Removes all but the newest checkpoints that the run has on the disk, also where it was moved, or saved at other steps before.
        What another run left in the folder, or somebody copied under another name, stays."""
        if self.save_top_k < 1 or not trainer.is_global_zero:
            return
        run = run_of(trainer)
        for old in checkpoints.own(Path(self.dirpath), run)[self.save_top_k :]:
            checkpoints.remove(old)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Saves the step unless it just was, lets ``last.ckpt`` name it, and drops the one before unless it is among the best."""
        if not self.save_last:
            return
        previous = self.last_model_path
        if self._last_global_step_saved == trainer.global_step:
            self.last_model_path = self._last_checkpoint_saved
        else:  # set before saving, because it is part of the state
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
        """Whether a name is taken; one that was cut off is written anew."""
        taken = trainer.is_global_zero and not checkpoints.fault(Path(filepath))
        return trainer.strategy.reduce_boolean_decision(taken, all=False)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Also the one that this session went on from, or every session would leave one."""
        return previous != current and Path(self.dirpath).absolute() in Path(previous).absolute().parents

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if trainer.is_global_zero:
            checkpoints.remove(Path(filepath))


def session_of(trainer: Trainer) -> Any:
    """The record of the run's sessions; ``None`` for a trainer without one."""
    return next((callback for callback in trainer.callbacks if hasattr(callback, "note_saved")), None)


def run_of(trainer: Trainer) -> float | None:
    """What tells the run from one that began before it in the same folder."""
    session = session_of(trainer)
    return None if session is None else session.run


@contextmanager
def noted(written: Written) -> Iterator[None]:
    """Keeps a failed write in mind instead of raising it. torch's own writer raises RuntimeErrors."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        written.failure = getattr(cause, "strerror", None) or str(cause).splitlines()[0]


@contextmanager
def kept_failures(trainer: Trainer) -> Iterator[Written]:
    """Inside, a rank whose write fails comes to the barriers that follow all the same, where the others would wait for it."""
    strategy, written = trainer.strategy, Written()
    engine = strategy.deepspeed_engine if isinstance(strategy, DeepSpeedStrategy) else None
    writer, name = (strategy.checkpoint_io, "save_checkpoint") if engine is None else (engine.checkpoint_engine, "save")
    write = getattr(writer, name)

    def write_noted(values: Any = None, path: Any = None, **more: Any) -> None:
        values = more.pop("state_dict", values)  # deepspeed names it, or does not
        with noted(written):
            write(values, path, **more)
            written.files.append(Path(path))

    setattr(writer, name, write_noted)
    if engine is not None:
        engine.save_checkpoint = partial(engine.save_checkpoint, save_latest=False)  # rank 0 would write it between two barriers
    try:
        yield written
    finally:
        delattr(writer, name)
        if engine is not None:
            del engine.save_checkpoint
