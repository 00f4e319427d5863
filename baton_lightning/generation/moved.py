"""What a run refers to, found again: after it was moved, and from another working directory than it was trained in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from baton_lightning import settings
from baton_lightning.runs import manifest

PATHS = ("root", "weights", "path", "folder", "name_or_path")
"""Settings that name a file or folder even where they have no slash."""


def bases(run: Path, config: dict[str, Any], directory: str | None) -> list[Path]:
    """Folders that the relative paths of a run's configuration may start from, the likeliest first.

    Args:
        run: Where the run is.
        config: Its configuration.
        directory: Working directory it was trained in, if known.
    """
    was, now = settings.folder(config), run.resolve()
    found = []
    if not was.is_absolute() and now.parts[-len(was.parts) :] == was.parts:
        found.append(now.parents[len(was.parts) - 1])
    return [*found, *([Path(directory)] if directory else []), Path.cwd()]


def located(values: Any, starts: list[Path], name: str = "") -> Any:
    """Settings in which every relative path that exists below one of the folders is absolute; everything else as it was.

    Args:
        values: Settings.
        starts: Folders, the likeliest first.
        name: Key of these settings.
    """
    if isinstance(values, dict):
        return {key: located(value, starts, str(key)) for key, value in values.items()}
    if isinstance(values, list):
        return [located(value, starts, name) for value in values]
    if not isinstance(values, str) or not values or os.path.isabs(values) or not ("/" in values or name in PATHS):
        return values
    return next((str(start / values) for start in starts if os.path.exists(start / values)), values)


def with_data(values: Any, was: str, now: str) -> Any:
    """Settings that name a data set's folder, or files in it, at another place."""
    if isinstance(values, dict):
        return {key: with_data(value, was, now) for key, value in values.items()}
    if isinstance(values, list):
        return [with_data(value, was, now) for value in values]
    if isinstance(values, str) and (values == was or values.startswith(f"{was}/")):
        return now + values[len(was) :]
    return values


def parent_of(run: Path, config: dict[str, Any], role: str, starts: list[Path], digest: str | None) -> Path:
    """Where a parent of a run is: as it lay to the run, where its configuration says, or beside the run under its own name.

    Args:
        run: Where the run is.
        config: Its configuration.
        role: E.g. ``planner``.
        starts: See :func:`bases`.
        digest: Digest of the parent's weights, if the run is finished and knows it.

    Raises:
        ValueError: If it is nowhere; the message says where it was looked for.
    """
    recorded, was = Path(config["model"]["init_args"]["parents"][role]), settings.folder(config)
    candidates = [start / recorded for start in starts] + [run / ".." / recorded.name]
    if recorded.is_absolute() == was.is_absolute():
        candidates.insert(0, run / os.path.relpath(recorded, was))
    looked: dict[Path, str] = {}
    for candidate in candidates:
        place = Path(os.path.normpath(candidate.absolute()))
        file = place / manifest.NAME
        if not file.exists():
            looked[place] = "not there"
        elif digest is not None and (got := manifest.read(place)["weights_sha256"]) != digest:
            looked[place] = f"holds weights {str(got)[:12]}"
        else:
            return place
    said = "; ".join(f"{place}: {why}" for place, why in looked.items())
    wanted = f", with weights {digest[:12]}" if digest else ""
    raise ValueError(f"{run}/ needs its {role}, which was {recorded}/{wanted}, beside it or where it was; looked at {said}")
