"""The folder that clips go into: what is there is never overwritten unasked, and what is scored is what was written."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from baton_lightning.plain_files import read_json, require_own_files

MADE = {"plan", "run"}
"""What the JSON beside a clip says if `generate` wrote it."""
RESULTS = ("scores.json", "scores.png", "index.html")


def require_free(out: Path, *, force: bool, names: Collection[str] = ()) -> list[Path]:
    """Refuses a folder that holds clips, but those that `generate` left there if these may be replaced; gives them.

    Args:
        out: The folder.
        force: Whether clips may be replaced.
        names: Clips that are added to those that are there, which stay; none writes the whole folder anew.

    Raises:
        ValueError: If there are clips that may not go, or it is no folder, or holds links.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"generate: --out must be a folder, {out} is a file; give another --out")
    require_own_files(out)
    there = sorted(file for file in out.glob("*.mp4") if not names or file.stem in names)
    if there and not force:
        raise ValueError(f"generate: {out}/ holds {len(there)} clips, the first is {there[0].name}; give another --out, or --force")
    if foreign := [file.name for file in there if not described(file).keys() >= MADE]:
        raise ValueError(f"generate: {out}/ holds {foreign[0]}, which generate did not write, so --force leaves it; give another --out")
    return there


def prepare(out: Path, *, force: bool, names: Collection[str] = ()) -> None:
    """Makes a folder that holds no clips of these names, or none at all, without those of an earlier `generate` and their scores.

    Raises:
        ValueError: As :func:`require_free`.
    """
    if there := require_free(out, force=force, names=names):
        for file in there:
            file.unlink()
            file.with_suffix(".json").unlink()
        for name in RESULTS:
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def described(file: Path) -> dict[str, Any]:
    """What the JSON beside a clip says; empty if there is none."""
    try:
        told = read_json(file.with_suffix(".json"), finite=False)
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
