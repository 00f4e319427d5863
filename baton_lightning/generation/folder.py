"""The output folder of `generate`: clips are overwritten only with ``--force``, and scores of old clips are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from baton_lightning.names import PLAN_SUFFIX, counted
from baton_lightning.plain_files import read_json, require_own_files

MADE = {"plan", "run"}
"""Keys in the JSON beside every clip written by `generate`."""
RESULTS = ("scores.json", "scores.png", "index.html")


def require_free(out: Path, *, force: bool) -> list[Path]:
    """Refuses a folder with clips, except clips written by `generate` with ``force``; returns these.

    Args:
        out: The folder.
        force: Whether clips may be replaced.

    Raises:
        ValueError: If there are clips that must not be replaced, or ``out`` is not a folder, or it contains links.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"generate: --out must be a folder, {out} is a file; give another --out")
    require_own_files(out)
    there = sorted(out.glob("*.mp4"))
    if there and not force:
        raise ValueError(
            f"generate: {out}/ holds {counted(len(there), 'clip')}, the first is {there[0].name}; give another --out, or --force"
        )
    if foreign := [file.name for file in there if not described(file).keys() >= MADE]:
        raise ValueError(
            f"generate: {out}/ holds {foreign[0]}, which generate did not write, so --force does not delete it; give another --out"
        )
    return there


def prepare(out: Path, *, force: bool) -> None:
    """Creates the folder, and removes all clips of an earlier `generate`, with their scores.

    Raises:
        ValueError: See :func:`require_free`.
    """
    if there := require_free(out, force=force):
        for file in there:
            file.unlink()
            file.with_suffix(".json").unlink()
            file.with_suffix(PLAN_SUFFIX).unlink(missing_ok=True)
        for name in RESULTS:
            (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)


def described(file: Path) -> dict[str, Any]:
    """The JSON beside a clip; empty if there is none."""
    try:
        record = read_json(file.with_suffix(".json"), finite=False)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
