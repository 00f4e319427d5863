"""Weights that come with the library, by name."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).parents[1] / "weights"
"""One folder per name, as `export` writes it."""


def names() -> list[str]:
    """Names of the weights that come with the library."""
    return sorted(path.name for path in HOME.iterdir() if (path / "manifest.json").is_file()) if HOME.is_dir() else []


def folder_of(run: str | Path) -> Path:
    """Folder of a run, or of the library's own weights if it is their name and no folder of this name exists here.

    Args:
        run: A folder, or one of :func:`names`.
    """
    folder = Path(run)
    return HOME / folder if str(run) in names() and not folder.exists() else folder
