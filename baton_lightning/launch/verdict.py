"""Checks whether existing runs and caches are those that a chain describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baton_lightning import settings
from baton_lightning.clip import ClipSpec
from baton_lightning.launch.stage import Stage, Status
from baton_lightning.runs import manifest
from baton_lightning.shards.format import CACHES, PLAN_CACHE, PLANS, SplitIndex
from baton_lightning.shards.stored_clip import clip_of, tensor_differences

BEGINNING = ("base", "resume", "config", "ckpt_path", "weights_only")
"""Settings that only affect the start of a session."""
WHERE = ("accelerator", "devices", "num_nodes")
"""Trainer settings that describe the hardware. They are not compared."""
REFUSED = ("stale", "other settings", "damaged")


def verdict(stage: Stage, made: dict[str, Any], before: Mapping[str, Status]) -> tuple[str, str]:
    """State of a finished run, and what differs if it is not the run that the chain describes.

    Args:
        stage: The stage.
        made: Manifest of the run.
        before: Status of the stages above it.
    """
    if not (stage.folder / manifest.WEIGHTS).exists():
        return "damaged", f"{stage.folder / manifest.WEIGHTS} is missing"
    if lacking := {"config", "parents"} - made.keys():
        return "other settings", f"its manifest has no {min(lacking)}"
    asked = {key: value for key, value in stage.settings.items() if key not in BEGINNING}
    asked["trainer"] = {key: value for key, value in asked.get("trainer", {}).items() if key not in WHERE}
    if differs := settings.differences(asked, made["config"]):
        return "other settings", "; ".join(differs[:4]) + (" ..." if len(differs) > 4 else "")
    for role, parent in made["parents"].items():
        path = Path(parent["run"]) / manifest.NAME
        now = json.loads(path.read_text())["weights_sha256"] if path.exists() else "not finished"
        if now != parent["weights_sha256"]:
            return "stale", f"parent changed: {role} from {parent['run']}/ was {parent['weights_sha256'][:12]}, is {now[:12]}"
    if old := [other for other in stage.after if before[other].state in REFUSED]:
        return "stale", f"it comes after {old[0]}, which is {before[old[0]].state}"
    return "finished", ""


def cache_lacks(stage: Stage) -> str:
    """Why the recorded caches do not satisfy a ``predict`` stage; empty if their files and records show no difference."""
    asked = stage.settings.get("clip")
    clips = list(clip_of(asked).each.values()) if asked else [None]
    return next((why for record, clip in zip(stage.caches, clips, strict=True) if (why := record_lacks(record, clip))), "")


def record_lacks(record: Path, clip: ClipSpec | None) -> str:
    """Why a recorded cache is not one of these clips, or not complete; empty if its files and record show no difference.

    Args:
        record: The record.
        clip: Geometry of the clips; ``None`` = any.
    """
    if not record.exists():
        return f"{record} is missing"
    made = json.loads(record.read_text()) if record.suffix == ".json" else {}
    if clip is not None and made.get("clip") and (differs := tensor_differences(clip, made["clip"])):
        return f"{record} is of another geometry (clip section != cache): {'; '.join(differs)}"
    try:
        for split, digest in made.get("splits", {}).items():
            index = SplitIndex.read(record.parent / split)
            if index.digest != digest:
                return f"the clips of {index.folder}/ differ from those of {record}"
            for kind in (PLANS,) if record.name == PLAN_CACHE else CACHES:
                gone = [tar for number in range(len(index.shards)) if not (tar := index.tar(number, kind)).exists()]
                if gone:
                    return f"{gone[0]} is missing" + (f", and {len(gone) - 1} more" if gone[1:] else "")
    except ValueError as error:
        return str(error)
    return ""
