"""Scores of a folder of clips of the benchmark world: pixels and waveform are compared with the scene or the prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from baton_lightning import atomic
from baton_lightning.names import printable
from baton_lightning.plain_files import read_json
from baton_lightning.world.score_table import HEADLINE, SCORES

if TYPE_CHECKING:
    from baton_lightning.media import Media
    from baton_lightning.world.scene import Scene

MOST_TOLD = 20
"""Largest number of skipped clips that are named."""
WIDEST, WIDTH = 96, 64
"""Pictures wider than ``WIDEST`` pixels are downsampled to ``WIDTH`` before detection."""


def score_folder(folder: Path) -> dict[str, Any]:
    """Scores every clip of a folder and writes ``scores.json`` into it.

    Args:
        folder: Folder with ``k.mp4`` and ``k.json`` for each clip. The JSON has ``scene``, or ``video_prompt`` and ``audio_prompt``.

    Returns:
        ``{"clips": {key: scores, tier, prompts and facts}, "tiers": {tier: aggregate}}``.

    Raises:
        ValueError: If the folder holds no clips, or none that can be scored.
    """
    from baton_lightning.recordings.clips import clip_files
    from baton_lightning.world.scores import aggregate, judge

    files = clip_files(folder, "evaluate")
    clips: dict[str, Any] = {}
    tiers: dict[str, list[Any]] = {}
    unreadable: dict[str, str] = {}
    for file in track(files, description=f"score {folder.name}"):
        try:
            media, meta = read_clip(file), metadata_of(file)
            scene = scene_of(meta, media.seconds, file)
            found = judge(scene, media.frames, media.waveform, media.fps, media.sample_rate)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            unreadable[file.stem] = " ".join(message.removeprefix("evaluate: ").split())
            continue
        tiers.setdefault(scene.tier, []).append(found.scores)
        texts = {name: meta[name] for name in ("video_prompt", "audio_prompt") if name in meta}
        clips[file.stem] = found.scores.to_dict() | {"tier": scene.tier} | texts | {"facts": found.facts}
    for key, why in list(unreadable.items())[:MOST_TOLD]:
        print(f"evaluate: {printable(key)}.mp4 is left out: {printable(why)}", file=sys.stderr, flush=True)
    if not clips:
        raise ValueError(f"evaluate: no clip of {folder}/ can be scored; the first, {files[0].name}: {unreadable[files[0].stem]}")
    result: dict[str, Any] = {"clips": clips, "tiers": {tier: aggregate(scores) for tier, scores in sorted(tiers.items())}}
    result |= {"unreadable": unreadable} if unreadable else {}
    atomic.write_text(folder / "scores.json", json.dumps(result, indent=1))
    return result


def metadata_of(file: Path) -> dict[str, Any]:
    """The JSON beside a clip.

    Raises:
        ValueError: If it is missing, or not a JSON object with a scene or prompts.
    """
    side = file.with_suffix(".json")
    fix = f"evaluate: {side} must hold the `scene` of {file.name}, or its `video_prompt` and `audio_prompt`"
    if not side.exists():
        raise ValueError(f"{fix}; it is missing")
    try:
        meta = read_json(side, finite=False)
    except ValueError as error:
        raise ValueError(f"{fix}; it is not JSON ({error})") from error
    if not isinstance(meta, dict) or not ("scene" in meta or {"video_prompt", "audio_prompt"} <= set(meta)):
        raise ValueError(f"{fix}; got {', '.join(meta) if isinstance(meta, dict) else type(meta).__name__}")
    if wrong := [name for name in ("video_prompt", "audio_prompt", "tier") if not isinstance(meta.get(name, ""), str)]:
        raise ValueError(f"{fix}; `{wrong[0]}` must be a text, got {meta[wrong[0]]!r}")
    return meta


def scene_of(meta: dict[str, Any], seconds: float, file: Path) -> Scene:
    """The expected scene of a clip: its ``scene``, or the scene that its prompts describe."""
    from baton_lightning.world.parse import parse_prompts
    from baton_lightning.world.scene import Scene

    try:
        if "scene" in meta:
            return Scene.from_dict(meta["scene"])
        return parse_prompts(meta["video_prompt"], meta["audio_prompt"], seconds, meta.get("tier"))
    except ValueError as error:
        raise ValueError(f"evaluate: {file.with_suffix('.json')}: {error}") from error


def read_clip(file: Path) -> Media:
    """A clip for the detectors. A clip without sound gets silence, and large pictures are downsampled."""
    from dataclasses import replace

    import numpy as np
    from PIL import Image

    from baton_lightning.media import MediaError
    from baton_lightning.recordings import clips

    try:
        media = clips.read_clip(file)
    except MediaError as error:
        if error.reason != "no_audio":
            raise
        media = clips.read_clip(file, has_audio=False)
        media = replace(media, waveform=np.zeros(round(media.seconds * 16000), np.float32), sample_rate=16000)
    height, width = media.frames.shape[1:3]
    if width <= WIDEST:
        return media
    size = WIDTH, round(WIDTH * height / width)
    return replace(media, frames=np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in media.frames]))


def show(result: dict[str, Any], console: Console) -> None:
    """Prints the tiers' scores as a table."""
    console.print(table_of(result["tiers"], "scores: mean and 95 % interval"))


def table_of(columns: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A table with a row per score and a column per aggregate. Five columns fit in 80 characters, as intervals stand below means.

    Args:
        columns: Title of a column -> aggregate, as :func:`~baton_lightning.world.scores.aggregate` returns it.
        title: Title of the table.
    """
    table = Table("score", title=title)
    for column in columns:
        table.add_column(escape(printable(column)), justify="right", no_wrap=True)
    table.add_row("clips", *(str(scores["num_clips"]) for scores in columns.values()))
    for name in HEADLINE:
        entry = SCORES[name]
        table.add_row(f"{entry.title}\n({entry.better})", *(stacked(scores[name]) for scores in columns.values()))
    return table


def cell(entry: dict[str, Any]) -> str:
    """``mean [low, high]``, or a dash if the score applies to no clip."""
    if entry["mean"] is None:
        return "-"
    return f"{entry['mean']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


def stacked(entry: dict[str, Any]) -> str:
    """The mean, and the interval in a line below it, or a dash if the score applies to no clip."""
    return "-" if entry["mean"] is None else f"{entry['mean']:.2f}\n{entry['low']:.2f}–{entry['high']:.2f}"
