"""What a folder holds: clips of one or several conditions, their metadata and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton_lightning.names import PLAN_SUFFIX, counted
from baton_lightning.plain_files import read_json

CONDITIONS = {
    "ceiling": ("truth through the codecs", "codec ceiling: the true clip through both codecs"),
    "truth": ("true plan", "the same generator along the true plan (oracle)"),
    "planned": ("planner's plan", "the generator along the planner's tokens"),
    "shuffled": ("another prompt's plan", "the same generator along another prompt's plan"),
    "none": ("no plan", "the same generator without a plan"),
}
"""Condition -> short title and description."""
OTHER = "clips"
"""Condition of clips that do not state one."""
WORDS = {"none": "without a plan", "planned": "with the planner's plan", "truth": "with the true plan", OTHER: "on average"}
"""Condition -> words of the headline, in its order."""


@dataclass(frozen=True)
class ReportClip:
    """A clip of a page.

    Args:
        key: Its name.
        file: The mp4.
        metadata: The JSON beside it; empty if there is none that can be read.
        scores: Its entry in ``scores.json``; ``None`` = it is not scored.
    """

    key: str
    file: Path
    metadata: Mapping[str, Any]
    scores: Mapping[str, Any] | None

    @property
    def tier(self) -> str:
        scene = self.metadata.get("scene")
        tier = (self.scores or {}).get("tier") or self.metadata.get("tier") or (scene.get("tier") if isinstance(scene, dict) else None)
        return tier if isinstance(tier, str) else "other"

    @property
    def plan_file(self) -> Path:
        """Where `generate --save-plans` writes the plan that the clip follows."""
        return self.file.with_suffix(PLAN_SUFFIX)

    def prompt(self, name: str) -> str:
        """``video_prompt`` or ``audio_prompt``; empty if unknown."""
        return str(self.metadata.get(name) or (self.scores or {}).get(name) or "")


@dataclass
class Found:
    """Clips of a folder.

    Args:
        folder: The folder.
        clips: Condition -> key -> clip; conditions in the order of :data:`CONDITIONS`.
        tiers: Condition -> tier -> aggregated scores.
        notes: What could not be read.
    """

    folder: Path
    clips: dict[str, dict[str, ReportClip]] = field(default_factory=dict)
    tiers: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> str | None:
        """The condition whose clips have cards: the planner's, or the first; ``None`` without clips."""
        return "planned" if "planned" in self.clips else next(iter(self.clips), None)

    def mean_p_acc(self) -> dict[str, tuple[float, int]]:
        """Condition -> mean P-Acc of all scored clips, and their number."""
        found = {}
        for condition, clips in self.clips.items():
            values = [clip.scores["p_acc"] for clip in clips.values() if clip.scores is not None]
            if values:
                found[condition] = sum(values) / len(values), len(values)
        return found

    def headline(self) -> str:
        """One sentence with P-Acc without a plan, with the planner's, and with the true plan; empty if nothing is scored."""
        means = self.mean_p_acc()
        parts = [f"{means[name][0]:.2f} {words}" for name, words in WORDS.items() if name in means]
        counts = [number for _, number in means.values()]
        return f"P-Acc of {counted(min(counts), 'clip')}{' each' if len(counts) > 1 else ''}: {', '.join(parts)}" if parts else ""

    def bounds(self) -> str:
        """The means of the controls that enclose the others; empty without controls."""
        means = self.mean_p_acc()
        return ", ".join(f"{means[name][0]:.2f} {CONDITIONS[name][0]}" for name in ("shuffled", "ceiling") if name in means)


def title_of(condition: str) -> str:
    """Short title of a condition."""
    return CONDITIONS[condition][0] if condition in CONDITIONS else condition


def condition_folder(out: Path, condition: str) -> Path:
    """Folder of a condition's clips in the run folder of the demo."""
    return out / "samples" if condition == "planned" else out / "controls" / condition


def find(folder: Path) -> Found:
    """Clips of a folder: its own ``k.mp4``, or those in ``samples/`` and ``controls/`` of an experiment, or in ``evaluation/`` of a run.

    Raises:
        ValueError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"report: there is no folder {folder}; give a run, an experiment such as runs/demo, or a folder of clips")
    found = Found(folder)
    if clips_in(folder):
        _add(found, None, folder)
        return found
    for condition in CONDITIONS:
        if clips_in(place := condition_folder(folder, condition)):
            _add(found, condition, place)
    if not found.clips and clips_in(place := folder / "evaluation"):
        _add(found, None, place)
    return found


def clips_in(folder: Path) -> list[Path]:
    """The files ``k.mp4`` of a folder, sorted; hidden ones are ignored."""
    return sorted(file for file in folder.glob("*.mp4") if not file.name.startswith(".") and file.is_file())


def _add(found: Found, condition: str | None, folder: Path) -> None:
    """Reads the clips of one condition; ``None`` = the condition that their metadata state."""
    scores, tiers = _scores(found, folder)
    clips = {}
    for file in clips_in(folder):
        try:
            metadata = read_json(side, finite=False) if (side := file.with_suffix(".json")).is_file() else {}
        except (ValueError, OSError) as error:
            metadata = {}
            found.notes.append(str(error))
        entry = scores.get(file.stem)
        clips[file.stem] = ReportClip(file.stem, file, metadata if isinstance(metadata, dict) else {}, entry if _is_entry(entry) else None)
    if condition is None:
        stated = {str(clip.metadata.get("plan")) for clip in clips.values()}
        condition = stated.pop() if len(stated) == 1 and stated <= CONDITIONS.keys() else OTHER
    found.clips[condition], found.tiers[condition] = clips, tiers


def _scores(found: Found, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entries of clips and of tiers in ``scores.json``; empty with a note if it cannot be read."""
    file = folder / "scores.json"
    if not file.is_file():
        return {}, {}
    try:
        read = read_json(file, finite=False)
    except (ValueError, OSError) as error:
        found.notes.append(str(error))
        return {}, {}
    if not (isinstance(read, dict) and isinstance(read.get("clips"), dict) and isinstance(read.get("tiers"), dict)):
        found.notes.append(f"{file} is not as `evaluate` writes it; score the clips again")
        return {}, {}
    return read["clips"], read["tiers"]


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("facts"), dict) and _is_number(entry.get("p_acc"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
