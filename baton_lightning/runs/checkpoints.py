"""Checkpoints on disk: each is either complete or absent. A manifest beside it lists its files with their sizes and digests.

A checkpoint is a file, or a folder of DeepSpeed's shards. It is written under a temporary name in the same folder and digested. Then its
manifest is renamed, then the checkpoint. The link `last.ckpt` is updated last. A checkpoint without a manifest, or with other files or
sizes than its manifest lists, is incomplete and is never opened.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from baton_lightning.plain_files import read_json, resolved
from baton_lightning.shards.format import file_digest

EXTENSION, ASIDE, DAMAGED = ".ckpt", ".part", ".damaged"


def manifest_of(checkpoint: Path) -> Path:
    """Path of a checkpoint's manifest."""
    return checkpoint.with_name(checkpoint.name + ".json")


def aside(checkpoint: Path) -> Path:
    """Path of a checkpoint while it is being written."""
    return checkpoint.with_name(checkpoint.name + ASIDE)


def files(checkpoint: Path) -> list[str]:
    """Names of a checkpoint's files relative to it; ``.`` if the checkpoint is a single file."""
    if not checkpoint.is_dir():
        return ["."]
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def described(checkpoint: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Size in bytes and digest of files of a checkpoint, after they were synchronised to disk."""
    entries = {}
    for name in names:
        sync(checkpoint / name)
        entries[name] = {"bytes": (checkpoint / name).stat().st_size, "sha256": file_digest(checkpoint / name)}
    return entries


def sync(path: Path) -> None:
    """Waits until a file or folder is synchronised to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(
    checkpoint: Path, entries: dict[str, dict[str, Any]], *, step: int, ranks: int, frozen: bool = True, run: float | None = None
) -> None:
    """Renames a checkpoint from its temporary path to its final one, and writes its manifest. An existing checkpoint is replaced.

    Args:
        checkpoint: Final path of the checkpoint.
        entries: All of its files, see :func:`described`.
        step: Number of optimiser steps made.
        ranks: Number of ranks that wrote it.
        frozen: Whether it holds frozen parameters.
        run: Time at which its run began, in s. It identifies the run among others in the same folder.
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
    """Makes a link point to a checkpoint in the same folder, atomically."""
    if link.is_dir() and not link.is_symlink():
        remove(link)
    part = aside(link)
    part.unlink(missing_ok=True)
    part.symlink_to(checkpoint.name)
    part.replace(link)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint and its manifest. After an interruption, the remaining files do not count as a checkpoint."""
    gone = checkpoint.with_name(f"{checkpoint.name}.gone{ASIDE}")
    clear(gone)
    if checkpoint.exists():
        checkpoint.replace(gone)
    manifest_of(checkpoint).unlink(missing_ok=True)
    clear(gone)


def set_aside(checkpoint: Path) -> Path:
    """Renames an unusable checkpoint and its manifest with the suffix ``.damaged``, and returns the new path."""
    aside = checkpoint.with_name(checkpoint.name + DAMAGED)
    clear(aside)
    manifest_of(checkpoint).replace(manifest_of(aside))
    return checkpoint.replace(aside)


def clear(path: Path) -> None:
    """Removes a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read(checkpoint: Path) -> dict[str, Any]:
    """Reads a checkpoint's manifest.

    Raises:
        ValueError: If its content is not a manifest. Manifests are written atomically, so it must have been changed later.
    """
    path = manifest_of(checkpoint)
    try:
        manifest = read_json(path)
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
    whole = resolved(checkpoint)  # last.ckpt is a link
    return manifest_of(whole).exists() and not read(whole).get("frozen", True)


def fault(checkpoint: Path) -> str:
    """The reason why a checkpoint is incomplete; empty if it is complete. Only names and sizes are compared; no file is opened."""
    if not checkpoint.exists():
        return "it does not exist"
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
            return f"{checkpoint.name if name == '.' else name} has {size} bytes and had {entry['bytes']!s:.40} when it was written"
    return ""


def ranked(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The complete checkpoints of a folder, newest first, and the reasons why others are not used.

    The newest checkpoint has the highest step. Among equal steps it was saved last. Steps are compared first
    because a clock may have been set back.

    Raises:
        ValueError: If there are checkpoints, but none is complete.
    """
    found = [path for path in sorted(folder.glob(f"*{EXTENSION}")) if not path.is_symlink()]
    faults = {path.name: reason for path in found if (reason := fault(path))}
    whole = [path for path in found if path.name not in faults]
    if found and not whole:
        raise ValueError(
            f"{folder}/ has no complete checkpoint to resume from: {'; '.join(f'{name}: {why}' for name, why in faults.items())}; "
            f"restore one, or start from scratch with --resume never"
        )
    described = {path: read(path) for path in whole}
    return sorted(whole, key=lambda path: (described[path].get("step", 0), described[path]["saved"]), reverse=True), faults


def own(folder: Path, run: float | None) -> list[Path]:
    """The complete checkpoints of a run that still have the names under which they were saved, newest first."""
    described = [(path, read(path)) for path in ranked(folder)[0]]
    return [path for path, known in described if known.get("name") == path.name and known.get("run") == run]


def newest(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest complete checkpoint, and the reasons why others are not used; see :func:`ranked`.

    Raises:
        ValueError: If there are checkpoints, but none is complete.
    """
    whole, faults = ranked(folder)
    return next(iter(whole), None), faults


def changed(checkpoint: Path, share: int = 0, shares: int = 1) -> list[str]:
    """Files of a checkpoint whose content changed after they were written.

    Args:
        checkpoint: File or folder.
        share: Index of the share of the files that this process reads, from 0 to ``shares`` - 1.
        shares: Number of processes that share the files.
    """
    named = read(checkpoint)["files"]
    return [name for name in sorted(named)[share::shares] if file_digest(checkpoint / name) != named[name]["sha256"]]
