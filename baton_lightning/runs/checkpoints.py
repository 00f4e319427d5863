"""Checkpoints on disk: whole or not there, and unchanged since. Beside each lies a manifest of its files, their sizes and digests.

A checkpoint is a file, or a folder of DeepSpeed's shards. It is written under another name in the same folder, digested, and renamed last
but one; `last.ckpt`, a link, moves last. What has no manifest, or not the files and sizes that it names, was cut off and is never opened.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from baton_lightning.shards.format import file_digest

EXTENSION, ASIDE, DAMAGED = ".ckpt", ".part", ".damaged"


def manifest_of(checkpoint: Path) -> Path:
    """Where a checkpoint's manifest lies."""
    return checkpoint.with_name(checkpoint.name + ".json")


def aside(checkpoint: Path) -> Path:
    """Where a checkpoint lies while it is written."""
    return checkpoint.with_name(checkpoint.name + ASIDE)


def files(checkpoint: Path) -> list[str]:
    """Names of a checkpoint's files relative to it; ``.`` where it is one file."""
    if not checkpoint.is_dir():
        return ["."]
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def described(checkpoint: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Size and digest of files of a checkpoint, once they are on the disk itself."""
    entries = {}
    for name in names:
        sync(checkpoint / name)
        entries[name] = {"bytes": (checkpoint / name).stat().st_size, "sha256": file_digest(checkpoint / name)}
    return entries


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(
    checkpoint: Path, entries: dict[str, dict[str, Any]], *, step: int, ranks: int, frozen: bool = True, run: float | None = None
) -> None:
    """Makes what was written aside the checkpoint, in place of one of that name.

    Args:
        checkpoint: Its name.
        entries: All of its files, see :func:`described`.
        step: Optimiser steps made.
        ranks: Ranks that wrote it.
        frozen: Whether it holds frozen parameters.
        run: What tells its run from one that began before it in the same folder.
    """
    manifest, part = manifest_of(checkpoint), aside(manifest_of(checkpoint))
    described = {
        "name": checkpoint.name,
        "step": step,
        "ranks": ranks,
        "saved": time.time(),
        "run": run,
        "frozen": frozen,
        "files": entries,
    }
    part.write_text(json.dumps(described, indent=1))
    sync(part)
    remove(checkpoint)
    part.replace(manifest)
    aside(checkpoint).replace(checkpoint)
    sync(checkpoint.parent)


def point(link: Path, checkpoint: Path) -> None:
    """Lets a link name a checkpoint of its folder, in one step."""
    if link.is_dir() and not link.is_symlink():
        remove(link)
    part = aside(link)
    part.unlink(missing_ok=True)
    part.symlink_to(checkpoint.name)
    part.replace(link)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint with its manifest. If this is cut off, what is left cannot be taken for a checkpoint."""
    gone = checkpoint.with_name(f"{checkpoint.name}.gone{ASIDE}")
    clear(gone)
    if checkpoint.exists():
        checkpoint.replace(gone)
    manifest_of(checkpoint).unlink(missing_ok=True)
    clear(gone)


def set_aside(checkpoint: Path) -> Path:
    """Takes a checkpoint that cannot be used out of the way, with its manifest."""
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    clear(aside)
    manifest_of(checkpoint).replace(manifest_of(aside))
    return checkpoint.replace(aside)


def clear(path: Path) -> None:
    """Removes a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's manifest.

    Raises:
        ValueError: If it is no manifest; it was changed, for it is written in one step.
    """
    path = manifest_of(checkpoint)
    try:
        manifest = json.loads(path.read_text())
        if (
            not all({"bytes", "sha256"} <= entry.keys() for entry in manifest["files"].values())
            or not {"ranks", "saved"} <= manifest.keys()
        ):
            raise KeyError("ranks, saved, bytes or sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be the manifest that was written with {checkpoint.name}, but it was changed afterwards ({error}); restore it"
        ) from error
    return manifest


def lacks_frozen(checkpoint: Path) -> bool:
    """Whether a checkpoint holds no frozen parameters."""
    whole = checkpoint.resolve()  # last.ckpt is a link
    return manifest_of(whole).exists() and not read(whole).get("frozen", True)


def fault(checkpoint: Path) -> str:
    """Why a checkpoint is not whole; empty if it is. Names and sizes are looked at, no file is opened."""
    if not checkpoint.exists():
        return "it is not there"
    if not manifest_of(checkpoint).exists():
        return f"it has no manifest {manifest_of(checkpoint).name}"
    try:
        named = read(checkpoint)["files"]
    except ValueError as error:
        return str(error)
    if (there := set(files(checkpoint))) != named.keys():
        return f"its files are not those of its manifest: {', '.join(sorted(there ^ named.keys())[:3])}"
    for name, entry in named.items():
        if (size := (checkpoint / name).stat().st_size) != entry["bytes"]:
            return f"{checkpoint.name if name == '.' else name} has {size} bytes and had {entry['bytes']} when it was written"
    return ""


def ranked(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The whole checkpoints of a folder, the newest first, and those that are passed over with the reason.

    The newest is that of the highest step, and of several of one step that which was saved last: a clock may have been set back.

    Raises:
        ValueError: If there are checkpoints, but none is whole.
    """
    found = [path for path in sorted(folder.glob(f"*{EXTENSION}")) if not path.is_symlink()]
    faults = {path.name: reason for path in found if (reason := fault(path))}
    whole = [path for path in found if path.name not in faults]
    if found and not whole:
        raise ValueError(
            f"{folder}/ has no whole checkpoint to go on from: {'; '.join(f'{name}: {why}' for name, why in faults.items())}; restore one, "
            "or start afresh with --resume never"
        )
    described = {path: read(path) for path in whole}
    return sorted(whole, key=lambda path: (described[path].get("step", 0), described[path]["saved"]), reverse=True), faults


def own(folder: Path, run: float | None) -> list[Path]:
    """The whole checkpoints of a run under the names they were saved with, the newest first."""
    described = [(path, read(path)) for path in ranked(folder)[0]]
    return [path for path, known in described if known.get("name") == path.name and known.get("run") == run]


def newest(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The first of those that :func:`ranked` gives, and those that are passed over with the reason.

    Raises:
        ValueError: If there are checkpoints, but none is whole.
    """
    whole, faults = ranked(folder)
    return next(iter(whole), None), faults


def changed(checkpoint: Path, share: int = 0, shares: int = 1) -> list[str]:
    """Files of a checkpoint whose content is no longer the one that was written.

    Args:
        checkpoint: File or folder.
        share: Which of the files this process reads, of ``shares``.
        shares: Processes that read together.
    """
    named = read(checkpoint)["files"]
    return [name for name in sorted(named)[share::shares] if file_digest(checkpoint / name) != named[name]["sha256"]]
