"""Where a session begins: the newest whole checkpoint of its own run, one that was given, or the first step; and the record it goes by."""

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
        checkpoint: What it goes on from; ``None`` = the first step.
        before: Older checkpoints of the run, the newest first.
        passed_over: Checkpoints that were not taken, with the reason.
    """

    checkpoint: Path | None
    before: list[Path] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> list[dict[str, Any]]:
    """The sessions that a run folder knows of; none where there is no record.

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
            f"{path} must be the record of the sessions of this run, and is damaged ({error}); restore it, or delete it to go on from the "
            "checkpoints with nothing compared"
        ) from error
    return known


def start(folder: Path, given: str | None, resume: str) -> Start:
    """Chooses where a session begins.

    Args:
        folder: Run folder.
        given: Checkpoint that was asked for; a run that began from it goes on from its own.
        resume: auto, changed or never.

    Raises:
        ValueError: If there are checkpoints, but none is whole, or there were some and they are gone.
    """
    known = read(folder) if resume != "never" else []
    if resume == "never" or (given and not began_from(known, Path(given))):
        return Start(Path(given) if given else None)
    whole, passed_over = checkpoints.ranked(folder / "checkpoints")
    passed_over |= {path.name: "it was saved before this run began" for path in whole if not belongs(path, known)}
    own = [path for path in whole if path.name not in passed_over]
    if not own:
        require_nothing_lost(folder, known)
    return Start(own[0] if own else Path(given) if given else None, own[1:], passed_over)


def require_nothing_lost(folder: Path, known: list[dict[str, Any]]) -> None:
    """Refuses to begin at the first step again where a run has lost the checkpoints it saved.

    Args:
        folder: Run folder, without a checkpoint of the run.
        known: Its sessions.

    Raises:
        ValueError: With the ways out.
    """
    own = known[known.index(beginning(known)) :] if known else []
    saved, steps = max((segment.get("saved", 0) for segment in own), default=0), ledgers.last_step(folder)
    if steps and (saved or not known):
        newest = f"the newest, of step {saved}, is gone" if saved else "nothing says that none was saved"
        raise ValueError(
            f"{folder}/{ledgers.NAME} has {steps} steps, but {folder}/checkpoints/ holds no checkpoint to go on from: {newest}; restore "
            "it, begin again with --resume never, which keeps the ledger as ledger.1.jsonl, or give another run.experiment"
        )


def belongs(checkpoint: Path, known: list[dict[str, Any]]) -> bool:
    """Whether a checkpoint was saved by the run that the sessions of a folder made, not by one before it."""
    if not known:
        return True
    described, began = checkpoints.read(checkpoint), beginning(known)["began"]
    return described["saved"] >= began if described.get("run") is None else described["run"] == began


def beginning(known: list[dict[str, Any]]) -> dict[str, Any]:
    """The session in which a run began, afresh or from a checkpoint that was given."""
    return next((segment for segment in reversed(known) if segment.get("given")), known[0])


def began_from(known: list[dict[str, Any]], given: Path) -> bool:
    """Whether a run began from this checkpoint, as it is now; one that is no longer there is known by its path."""
    was, now = (beginning(known).get("given") if known else None), identity(given)
    return was is not None and was["path"] == now["path"] and (not given.exists() or was["saved"] == now["saved"])


def identity(checkpoint: Path) -> dict[str, Any]:
    """What tells a checkpoint that was given from another of its name."""
    path = checkpoint.resolve()
    return {"path": str(path), "saved": checkpoints.read(path)["saved"] if checkpoints.manifest_of(path).exists() else None}
