"""`manifest.json`: the record that completes a run. It is written last, by atomic rename. A run without a manifest is not finished."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from baton_lightning import hints
from baton_lightning.clip import ClipSpec
from baton_lightning.plain_files import read_json
from baton_lightning.runs.weights import WEIGHTS, digest, files, opened
from baton_lightning.shards.format import file_digest
from baton_lightning.shards.stored_clip import clip_of

NAME = "manifest.json"
PACKAGES = ("torch", "lightning", "transformers", "diffusers", "webdataset", "safetensors", "numpy")


def read(run: Path) -> dict[str, Any]:
    """Reads the manifest of a finished run.

    Raises:
        ValueError: If the run does not exist, is not finished, or its manifest is damaged.
    """
    path = run / NAME
    if not run.is_dir():
        fix = f"; train it {how}" if (how := hints.fit(run)) else hints.runs_near(run) or "; check the path"
        raise ValueError(f"there is no run {run}/{fix}")
    if not path.exists():
        raise ValueError(f"the run {run}/ is not finished (no {NAME}); finish it {hints.fit(run)}".rstrip())
    try:
        manifest = read_json(path, finite=False)
        if not isinstance(manifest, dict) or "weights_sha256" not in manifest:
            raise ValueError("it names no weights_sha256")
        if wrong := [key for key, fits in SHAPE.items() if key in manifest and not fits(manifest[key])]:
            raise ValueError(f"its {wrong[0]} has an invalid value")
        return manifest
    except ValueError as error:  # not JSON, not text, or not a manifest
        raise ValueError(f"{path} is damaged ({error}); train the run again or restore the file") from error


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SHAPE: dict[str, Callable[[Any], bool]] = {
    "stage": is_text,
    "clip": lambda value: isinstance(value, dict),
    "parents": lambda value: (
        isinstance(value, dict)
        and all(
            isinstance(parent, dict) and is_text(parent.get("run")) and is_text(parent.get("weights_sha256")) for parent in value.values()
        )
    ),
    "weights_sha256": is_text,
    "data": lambda value: value is None or is_text(value),
    "metrics": lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    "planner_gate": lambda value: isinstance(value, dict) and isinstance(value.get("failed", []), list),
    "directory": is_text,
    "config": lambda value: isinstance(value, dict),
    "lacks": lambda value: isinstance(value, list) and all(map(is_text, value)),
    "bundled": lambda value: isinstance(value, list) and all(map(is_text, value)),
    "beyond_shapes": lambda value: (
        isinstance(value, dict) and all(isinstance(part, dict) and all(map(is_number, part.values())) for part in value.values())
    ),
}
"""Entry -> check of its type. Code that reads a manifest relies on these types."""


SIZES = ("height", "width", "seconds", "audio_latents", "geometries")
"""Fields of a clip in which the geometries of a run differ."""


def require(run: Path, clip: ClipSpec | None = None, *, digest: Callable[[Path], str] = digest) -> dict[str, Any]:
    """Reads the manifest of a finished run, and checks the digest of its weights and the geometry of its clips.

    Args:
        run: Run folder.
        clip: Required geometry; ``None`` = any.
        digest: Function that digests the weights of a run.

    Raises:
        ValueError: If the weights were changed after the run, or the geometry differs. The message names the fields.
    """
    manifest = read(run)
    known = manifest.get("clip", {})  # a converted checkpoint records only the fields that its layers depend on
    differs = geometry_differences(clip, known) if clip is not None else []
    if differs:
        raise ValueError(
            f"the parent run {run}/ was trained on another clip geometry (here != there): {'; '.join(differs)}; "
            "use the parent's clip section"
        )
    for file in files(run):
        with opened(file):  # a truncated file is detected from its header, before it is digested
            pass
    got = digest(run)
    if got != manifest["weights_sha256"]:
        where = run / WEIGHTS if (run / WEIGHTS).exists() else f"{run}/"
        raise ValueError(
            f"the weights {where} must have the digest {manifest['weights_sha256'][:12]} its manifest names, got {got[:12]}; they "
            f"were changed after the run"
        )
    return manifest


def geometry_differences(clip: ClipSpec, known: dict[str, Any]) -> list[str]:
    """Differences of the geometry of a run from that of its parent, as texts.

    A parent with several geometries fits a run with these or some of them, in any order. The run of a parent with one geometry starts with
    it, and may have more: the parent's weights fit, if they have a placeholder for each planned token.

    Args:
        clip: Geometry of the run.
        known: Geometry of the parent, as its manifest records it, perhaps in part.
    """
    own = {line.partition(":")[0]: line for line in clip.differences(known) if line.partition(":")[0] in known}
    if not known.get("geometries"):
        return list(own.values())
    theirs = clip_of(known).each
    other = [f"clip.geometries: {name} is none of {', '.join(theirs)}" for name in clip.each if name not in theirs]
    return [line for name, line in own.items() if name not in SIZES] + other


def git_commit() -> str | None:
    """Commit of the checkout that the process was started in, with ``+`` if files were changed; ``None`` outside of a checkout."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty else "")


def describe(
    *,
    stage: str,
    clip: ClipSpec,
    parents: dict[str, dict[str, str]],
    config: dict[str, Any],
    data: str | None,
    seed: int | None,
    metrics: dict[str, float],
    seconds: float,
    weights: Path,
) -> dict[str, Any]:
    """Builds the manifest of a run that has just finished.

    Args:
        stage: Name of the stage's class.
        clip: Geometry of its clips.
        parents: Role -> run folder and digest of each parent, recorded at the start of the run.
        config: Resolved configuration.
        data: Digest of the data set, if known.
        seed: Seed of the run.
        metrics: Last value of each logged metric.
        seconds: Wall time of the last session, in s.
        weights: Exported weights.
    """
    return {
        "stage": stage,
        "clip": clip.to_dict(),
        "parents": parents,
        "weights_sha256": file_digest(weights),
        "data": data,
        "seed": seed,
        "metrics": metrics,
        "seconds": round(seconds, 1),
        "directory": str(Path.cwd()),  # relative paths of the configuration start here
        "git_commit": git_commit(),
        "packages": {name: version(name) for name in PACKAGES},
        "config": config,
    }
