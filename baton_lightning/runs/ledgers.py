"""The ledger of a run as a file: reads its last step, and renames it when a run begins again in the folder."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from baton_lightning.plain_files import parse_json

NAME = "ledger.jsonl"


def last_line(path: Path) -> dict[str, Any] | None:
    """The last complete line of a ledger; ``None`` without one.

    Raises:
        ValueError: If the line does not describe a step.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise ValueError(f"{path} must be a file, the ledger of a run; delete it")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        whole = file.read().rpartition(b"\n")[0]
    if not whole:
        return None
    try:
        line = parse_json(whole.rpartition(b"\n")[2], "it", finite=False)
        return line | {"step": int(line["step"]), "loss": str(line["loss"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: its last line is not a step of a run ({error}); repair it, or delete the run's folder"
        ) from error


def last_step(folder: Path) -> int:
    """The last step in the ledger of a run folder; 0 without one."""
    line = last_line(folder / NAME)
    return 0 if line is None else line["step"]


def set_aside(folder: Path) -> Path | None:
    """Renames a ledger to the first free name ``ledger.N.jsonl`` and returns the new path; ``None`` if no ledger holds a step."""
    if not last_step(folder):
        return None
    kept = next(path for number in count(1) if not (path := folder / f"ledger.{number}.jsonl").exists())
    return (folder / NAME).rename(kept)
