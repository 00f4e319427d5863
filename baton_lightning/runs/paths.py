"""Resolution of the paths in a run's configuration, independent of the working directory, and also after the run was moved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from baton_lightning import settings
from baton_lightning.runs import manifest

PATHS = ("root", "weights", "path", "folder", "name_or_path")
"""Settings whose values are paths even without a slash."""


def candidate_folders(run: Path, config: dict[str, Any], directory: str | None) -> list[Path]:
    """Folders to which the relative paths of a run's configuration may refer, the most likely first.

    Args:
        run: Folder of the run.
        config: Its configuration.
        directory: Working directory of its training; ``None`` = unknown.
    """
    old, new = settings.folder(config), run.resolve()
    found = []
    if not old.is_absolute() and new.parts[-len(old.parts) :] == old.parts:
        found.append(new.parents[len(old.parts) - 1])
    return [*found, *([Path(directory)] if directory else []), Path.cwd()]


def absolute_paths(values: Any, starts: list[Path], name: str = "") -> Any:
    """Settings in which relative paths that exist in one of the folders are absolute.

    Args:
        values: Settings.
        starts: Folders, the most likely first.
        name: Key of these settings.
    """
    if isinstance(values, dict):
        return {key: absolute_paths(value, starts, str(key)) for key, value in values.items()}
    if isinstance(values, list):
        return [absolute_paths(value, starts, name) for value in values]
    if not isinstance(values, str) or not values or os.path.isabs(values) or not ("/" in values or name in PATHS):
        return values
    return next((str(start / values) for start in starts if os.path.exists(start / values)), values)


def replace_folder(values: Any, old: str, new: str) -> Any:
    """Settings in which a folder, and paths in it, are replaced."""
    if isinstance(values, dict):
        return {key: replace_folder(value, old, new) for key, value in values.items()}
    if isinstance(values, list):
        return [replace_folder(value, old, new) for value in values]
    if isinstance(values, str) and (values == old or values.startswith(f"{old}/")):
        return new + values[len(old) :]
    return values


def parent_of(run: Path, config: dict[str, Any], role: str, starts: list[Path], digest: str | None) -> Path:
    """Folder of a run's parent: at the same relative path as before, at the configured path, or beside the run with the same name.

    Args:
        run: Folder of the run.
        config: Its configuration.
        role: Role of the parent, e.g. ``planner``.
        starts: See :func:`candidate_folders`.
        digest: Required digest of the parent's weights; ``None`` = unknown.

    Raises:
        ValueError: If it is not found; the message lists the folders that were searched.
    """
    recorded, old = Path(config["model"]["init_args"]["parents"][role]), settings.folder(config)
    candidates = [start / recorded for start in starts] + [run / ".." / recorded.name]
    if recorded.is_absolute() == old.is_absolute():
        candidates.insert(0, run / os.path.relpath(recorded, old))
    looked: dict[Path, str] = {}
    for candidate in candidates:
        folder = Path(os.path.normpath(candidate.absolute()))
        file = folder / manifest.NAME
        if not file.exists():
            looked[folder] = "does not exist"
        elif digest is not None and (got := manifest.read(folder)["weights_sha256"]) != digest:
            looked[folder] = f"holds weights {str(got)[:12]}"
        else:
            return folder
    text = "; ".join(f"{folder}: {why}" for folder, why in looked.items())
    required = f", with weights {digest[:12]}" if digest else ""
    raise ValueError(f"{run}/ needs its {role}, recorded as {recorded}/{required}, at the recorded path or beside the run; searched {text}")
