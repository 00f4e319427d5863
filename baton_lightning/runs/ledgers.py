"""A run's ledger as a file: how far it reaches, and how it makes way for that of a run that begins again."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

NAME = "ledger.jsonl"


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a ledger."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        whole = file.read().rpartition(b"\n")[0]
    if not whole:
        return None
    try:
        line = json.loads(whole.rpartition(b"\n")[2])
        return line | {"step": int(line["step"]), "loss": str(line["loss"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: its last line is no step of a run ({error}); delete the run's folder, or mend it") from error


def last_step(folder: Path) -> int:
    """The last step in a run folder's ledger; 0 without."""
    line = last_line(folder / NAME)
    return 0 if line is None else line["step"]


def set_aside(folder: Path) -> Path | None:
    """Keeps a ledger under the first free name ``ledger.N.jsonl``; ``None`` if there is none that holds a step."""
    if not last_step(folder):
        return None
    kept = next(path for number in count(1) if not (path := folder / f"ledger.{number}.jsonl").exists())
    return (folder / NAME).rename(kept)
