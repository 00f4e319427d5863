"""`evaluate`: scores a folder of clips against the scenes their prompts describe.

Every ``k.mp4`` needs a ``k.json`` beside it that holds the scene (``generate`` writes both). The result is ``scores.json``: one
entry a clip and, for each tier, mean, 95 % interval and number of clips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

HEADLINE = ("p_acc", "p_check", "order", "m_ter", "desync", "desync_p")


def score_folder(folder: Path) -> dict[str, Any]:
    """Scores every clip of a folder and writes ``scores.json`` into it.

    Args:
        folder: Holds ``k.mp4`` and ``k.json`` with ``scene`` and ``tier``.

    Returns:
        ``{"clips": {key: scores}, "tiers": {tier: aggregate}}``.

    Raises:
        ValueError: If the folder holds no clips, or a clip has no scene.
    """
    from baton_lightning.media import read_mp4
    from baton_lightning.world.scene import Scene
    from baton_lightning.world.scores import aggregate, score

    files = sorted(folder.glob("*.mp4"))
    if not files:
        raise ValueError(f"evaluate: {folder}/ holds no *.mp4; write some with `python -m baton_lightning generate`")
    clips: dict[str, Any] = {}
    tiers: dict[str, list[Any]] = {}
    for file in track(files, description=f"score {folder.name}"):
        side = file.with_suffix(".json")
        if not side.exists() or "scene" not in (meta := json.loads(side.read_text())):
            raise ValueError(f"evaluate: {side} must hold the `scene` of {file.name}; clips without a known scene cannot be scored")
        media = read_mp4(file)
        scene = Scene.from_dict(meta["scene"])
        scores = score(scene, media.frames, media.waveform, media.fps)
        tiers.setdefault(meta["tier"], []).append(scores)
        clips[file.stem] = scores.to_dict()
    result = {"clips": clips, "tiers": {tier: aggregate(scores) for tier, scores in sorted(tiers.items())}}
    part = folder / "scores.json.part"
    part.write_text(json.dumps(result, indent=1))
    part.replace(folder / "scores.json")
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Prints the tiers' scores as a table."""
    table = Table(title="scores: mean and 95 % interval")
    for column in ("tier", "clips", *HEADLINE):
        table.add_column(column, justify="left" if column == "tier" else "right")
    for tier, scores in result["tiers"].items():
        cells = [cell(scores[name]) for name in HEADLINE]
        table.add_row(tier, str(scores["num_clips"]), *cells)
    console.print(table)


def cell(entry: dict[str, Any]) -> str:
    """``mean [low, high]``, or a dash where nothing could be measured."""
    if entry["mean"] is None:
        return "-"
    return f"{entry['mean']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m baton_lightning evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with k.mp4 and k.json")
    options = parser.parse_args(argv)
    show(score_folder(options.folder), Console())
    print(f"wrote {options.folder / 'scores.json'}")
    return 0
