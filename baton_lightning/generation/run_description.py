"""Description of a run, read without torch: its manifest, or its saved configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from baton_lightning import settings
from baton_lightning.plain_files import read_bytes, resolved
from baton_lightning.runs import checkpoints, manifest


def require_run(run: Path, checkpoint: Path | None) -> None:
    """Refuses a folder that is not a run for generation, before torch is loaded; weights are not checked.

    Args:
        run: Folder of a run.
        checkpoint: Checkpoint of the run; ``None`` = the run must be finished.

    Raises:
        ValueError: If the folder is not a run, the run is not finished, or the checkpoint belongs to another run.
    """
    if checkpoint is not None:
        require_own_checkpoint(run, checkpoint)
    if (run / manifest.NAME).exists():
        manifest.read(run)
    else:
        run_description(run, checkpoint)


def require_own_checkpoint(run: Path, checkpoint: Path) -> None:
    """Refuses a checkpoint that is not in the run's folder. One of another run could have the same shapes and load without an error.

    Raises:
        ValueError: If the checkpoint is not in the run's folder.
    """
    homes = resolved(run), resolved(run / "checkpoints")  # the checkpoint folder may be a link to a larger disk
    if not any(path.is_relative_to(home) for path in (resolved(checkpoint), resolved(checkpoint.parent)) for home in homes):
        raise ValueError(f"--ckpt must be a checkpoint of the run, in {run}/, got {checkpoint}; give --run the folder it lies in")


def run_description(run: Path, checkpoint: Path | None) -> dict[str, Any]:
    """The manifest of a run; for an unfinished run with a checkpoint, its saved configuration only.

    Raises:
        ValueError: If the run is not finished and no checkpoint was given.
    """
    if (run / manifest.NAME).exists():
        return manifest.read(run) if checkpoint else manifest.require(run)
    saved = run / "config.yaml"
    if checkpoint is None:
        newest = checkpoints.newest(run / "checkpoints")[0] if saved.exists() else None
        if newest is None:
            return manifest.require(run)  # raises an error that says what is missing
        raise ValueError(f"the run {run}/ is not finished; finish it, or give --ckpt {newest} for clips from its newest checkpoint")
    if not saved.exists():
        raise ValueError(f"--run must be the folder of the run that wrote the checkpoint, {run}/ has no {saved.name}")
    return {"config": settings.parsed(read_bytes(saved), str(saved))}
