"""Record of a run's parents and the digests of their weights, kept in the run folder, because parents may be deleted before it ends."""

from __future__ import annotations

import json
from pathlib import Path

from baton_lightning import atomic
from baton_lightning.plain_files import read_json
from baton_lightning.runs import manifest

NAME = "parents.json"
UNKNOWN = "unknown"


def record(folder: Path, parents: dict[str, str], *, afresh: bool, write: bool) -> dict[str, dict[str, str]]:
    """Parents of a run with the digests of their weights. The first start of the run records them; later sessions read the record.

    Args:
        folder: Run folder.
        parents: Role -> run.
        afresh: Whether the run starts; otherwise it resumes from a checkpoint.
        write: Whether this process writes the record.

    Returns:
        Role -> ``run`` and ``weights_sha256``. The digest is ``unknown`` if the run began without a record and its parent is unreadable.

    Raises:
        ValueError: If the run starts and a parent is not a finished run.
    """
    path = folder / NAME
    known = read_json(path) if path.exists() and not afresh else {}
    found = {role: known.get(role) or described(Path(run), needed=afresh) for role, run in parents.items()}
    if write and found and found != known:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, json.dumps(found, indent=1))
    return found


def described(run: Path, *, needed: bool) -> dict[str, str]:
    """A parent and the digest of its weights from its manifest.

    Raises:
        ValueError: If ``needed`` and the parent is not a finished run.
    """
    try:
        return {"run": str(run), "weights_sha256": manifest.read(run)["weights_sha256"]}
    except ValueError:
        if needed:
            raise
        return {"run": str(run), "weights_sha256": UNKNOWN}
