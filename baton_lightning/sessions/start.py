"""Chooses where a session begins: at the run's newest complete checkpoint, at one that the user gave, or at the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton_lightning.plain_files import read_json
from baton_lightning.runs import checkpoints, ledgers

NAME = "segments.json"


@dataclass
class Start:
    """Where a session begins.

    Args:
        checkpoint: Checkpoint to resume from; ``None`` = the first step.
        before: Older checkpoints of the run, the newest first.
        skipped: Name of each checkpoint that was not used -> reason.
    """

    checkpoint: Path | None
    before: list[Path] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> list[dict[str, Any]]:
    """The recorded sessions of a run folder; empty without a record.

    Raises:
        ValueError: If the record is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return []
    try:
        known = read_json(path, finite=False)
        if not known or not all({"step", "began", "changed"} <= segment.keys() for segment in known) or "config" not in known[0]:
            raise ValueError("a session lacks its step, its time or its settings")
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"{path} must be the record of this run's sessions, but is damaged ({error}); restore it, or delete it to resume from the "
            f"checkpoints without a comparison of settings"
        ) from error
    return known


def start(folder: Path, given: str | None, resume: str) -> Start:
    """Chooses where a session begins.

    Args:
        folder: Run folder.
        given: Checkpoint that the user gave. A run that began from it resumes from its own checkpoints.
        resume: auto, changed or never.

    Raises:
        ValueError: If no existing checkpoint is complete, or if saved checkpoints were deleted.
    """
    known = read(folder) if resume != "never" else []
    if resume == "never" or (given and not started_from(known, Path(given))):
        return Start(Path(given) if given else None)
    whole, skipped = checkpoints.ranked(folder / "checkpoints")
    skipped |= {path.name: "it was saved before this run started" for path in whole if not belongs_to_run(path, known)}
    own = [path for path in whole if path.name not in skipped]
    if not own:
        require_nothing_lost(folder, known)
    return Start(own[0] if own else Path(given) if given else None, own[1:], skipped)


def require_nothing_lost(folder: Path, known: list[dict[str, Any]]) -> None:
    """Refuses to restart at the first step if the run's saved checkpoints are missing.

    Args:
        folder: Run folder that holds no checkpoint of the run.
        known: Sessions of the run.

    Raises:
        ValueError: If checkpoints are missing. The message says how to continue.
    """
    own = known[known.index(beginning(known)) :] if known else []
    saved, steps = max((segment.get("saved", 0) for segment in own), default=0), ledgers.last_step(folder)
    if steps and (saved or not known):
        newest = f"the newest, of step {saved}, is missing" if saved else "no record says that none was saved"
        raise ValueError(
            f"{folder}/{ledgers.NAME} has {steps} steps, but {folder}/checkpoints/ holds no checkpoint to resume from: {newest}; "
            f"restore it, start again with --resume never, which keeps the ledger as ledger.1.jsonl, or give another run.experiment"
        )


def belongs_to_run(checkpoint: Path, known: list[dict[str, Any]]) -> bool:
    """Whether a checkpoint was saved by this run, not by an earlier one in the same folder."""
    if not known:
        return True
    described, began = checkpoints.read(checkpoint), beginning(known)["began"]
    return described["saved"] >= began if described.get("run") is None else described["run"] == began


def beginning(known: list[dict[str, Any]]) -> dict[str, Any]:
    """The session in which the run began, at the first step or from a checkpoint that the user gave."""
    return next((segment for segment in reversed(known) if segment.get("given")), known[0])


def started_from(known: list[dict[str, Any]], given: Path) -> bool:
    """Whether the run began from this checkpoint with its present content. A checkpoint that was deleted is compared by path alone."""
    was, now = (beginning(known).get("given") if known else None), identity(given)
    return was is not None and was["path"] == now["path"] and (not given.exists() or was["saved"] == now["saved"])


def identity(checkpoint: Path) -> dict[str, Any]:
    """Path and time of saving. They distinguish a given checkpoint from another one at the same path."""
    path = checkpoint.resolve()
    return {"path": str(path), "saved": checkpoints.read(path)["saved"] if checkpoints.manifest_of(path).exists() else None}
