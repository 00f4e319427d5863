"""What a run began from: its parents and the digests of their weights, kept in its folder, because parents may be gone when it ends."""

from __future__ import annotations

import json
from pathlib import Path

from baton_lightning import atomic
from baton_lightning.plain_files import read_json
from baton_lightning.runs import manifest

NAME = "parents.json"
UNKNOWN = "unknown"


def record(folder: Path, parents: dict[str, str], *, afresh: bool, write: bool) -> dict[str, dict[str, str]]:
    """Parents of a run with their digests: as they are at its first start, and as they were then at every other.

    Args:
        folder: Run folder.
        parents: Role -> run.
        afresh: Whether the run starts; else it goes on from a checkpoint.
        write: Whether this process keeps them.

    Returns:
        Role -> ``run`` and ``weights_sha256``; ``unknown`` where a run that was begun without a record has lost its parent.

    Raises:
        ValueError: If the run starts and a parent is not finished.
    """
    path = folder / NAME
    known = read_json(path) if path.exists() and not afresh else {}
    found = {role: known.get(role) or described(Path(run), needed=afresh) for role, run in parents.items()}
    if write and found and found != known:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, json.dumps(found, indent=1))
    return found


def described(run: Path, *, needed: bool) -> dict[str, str]:
    """A parent and the digest that its manifest names."""
    try:
        return {"run": str(run), "weights_sha256": manifest.read(run)["weights_sha256"]}
    except ValueError:
        if needed:
            raise
        return {"run": str(run), "weights_sha256": UNKNOWN}
