"""What a condition is worth: clips that are generated with it, against the same clips with the known parts pasted in afterwards.

Both clips of a pair are generated from the same noise, prompts and plan. The first knows its condition while it is generated: a first
frame, a start, a picture without sound, and so on. The second does not; its known latents are replaced by the true ones at the end. So both
clips contain the same true parts, and they differ only in how well the generated parts fit them. Scores on the benchmark world:

* P-Acc and DeSync-P (s) as of `evaluate`. Sound for a picture: DeSync-P is the distance of the generated sound from the given picture.
* PSNR (dB) of the pictures to the true ones, both decoded by the run's codec, over all pixels.

Timing that no prompt tells is the strictest test of `video=given` and `audio=given`: `shards world data/jitter --jitter 0.3`, and --data.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import atomic, trust
from baton_lightning.arguments import require_at_least_one

if TYPE_CHECKING:
    from torch import Tensor

    from baton_lightning.flow.tasks import Task
    from baton_lightning.stages.joint import JointTraining

TASKS = ("first_frame=1", "prefix=1", "mask=1", "video=given", "audio=given")
SCORES = {"p_acc": "P-Acc", "desync_p": "DeSync-P, s", "psnr": "PSNR, dB"}
BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.epilog = (
        "example:\n  python -m baton_lightning bench tasks --run runs/demo/tasks --task first_frame=1 --task video=given --num 32"
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="finished stage-3 run of the benchmark world")
    add("--data", type=Path, metavar="FOLDER", help="data set of the clips (default: the run's)")
    add("--task", action="append", metavar="NAME=VALUE", help=f"as for `generate --task`; may be repeated (default: {' '.join(TASKS)})")
    add("--num", type=int, default=32, help="held-out clips a tier (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--trust", action="append", default=[], type=trust.package, metavar="NAME", help="package whose code the run may name")


def main(options: argparse.Namespace) -> int:
    """Measures, prints a table and writes the JSON."""
    require_at_least_one("bench tasks", options, "num")

    from rich.console import Console
    from rich.table import Table

    from baton_lightning.bench import sample_quality
    from baton_lightning.generation.conditions import task_of

    tasks = {text: task_of(text) for text in options.task or TASKS}
    if plain := [text for text, task in tasks.items() if task.plain]:
        raise ValueError(f"bench tasks: --task must make something known, e.g. first_frame=1, got {plain[0]}")
    model, module = sample_quality.load(options.run, options.data, options.trust)
    found = measure(model, module, tasks, options.num)
    table = Table(title=f"{options.run}: known parts pasted in afterwards -> known while generating")
    for heading in ("task", "score", "pasted", "known", "known - pasted [95 % interval]", "clips"):
        table.add_column(heading, justify="left" if heading in ("task", "score") else "right")
    for text, scores in found.items():
        for name, row in scores.items():
            gain = row["gain"]
            difference = f"{gain['mean']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
            table.add_row(text, SCORES[name], f"{row['pasted']:.2f}", f"{row['known']:.2f}", difference, str(gain["n"]))
    Console().print(table)
    if options.json is not None:
        atomic.write_text(options.json, json.dumps({"run": str(options.run), "num": options.num, "tasks": found}, indent=1) + "\n")
    return 0


def measure(model: JointTraining, module: Any, tasks: dict[str, Task], num: int) -> dict[str, dict[str, Any]]:
    """Scores of the pairs of every task.

    Args:
        model: The run's model.
        module: Its data set, of the benchmark world.
        tasks: Name -> task; its known parts are drawn by counter, as in training.
        num: Held-out clips a tier.

    Returns:
        Task -> score -> ``pasted`` and ``known``, means over clips, and ``gain``, the mean difference with its bootstrap interval over
        clips. Clips without a value, e.g. PSNR of given pictures, are left out.
    """
    import torch
    from tqdm import tqdm

    from baton_lightning.generation import requests
    from baton_lightning.generation.conditions import held_by_task
    from baton_lightning.generation.generator import Generator
    from baton_lightning.stages.flow_matching import clean_latents

    generator = Generator(model)
    generator.place_networks(torch.float32)
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {text: [] for text in tasks}
    with torch.no_grad():
        for batch, described in tqdm(requests.held_out(module, num, BATCH), desc="clips", unit="batch"):
            plan = generator.plan(batch)
            clean = clean_latents(batch)
            true, _ = generator.decode(clean["video"], clean["audio"])
            free = generator.sample(batch, plan)
            for text, task in tasks.items():
                given = held_by_task(task, generator, batch)
                both = [generator.decode(*given.over(*free)), generator.decode(*generator.sample(batch, plan, given))]
                for i, meta in enumerate(described):
                    pasted, known = (scores(model, meta, frames[i], sound[i], true[i]) for frames, sound in both)
                    pairs[text].append((pasted, known))
    return {text: {name: row for name in SCORES if (row := compared(found, name))} for text, found in pairs.items()}


def scores(model: JointTraining, meta: dict[str, Any], frames: Tensor, waveform: Tensor, true: Tensor) -> dict[str, float]:
    """Scores of one clip; a score without a value is left out.

    Args:
        model: The run's model, for the geometry.
        meta: Metadata of the clip, with its scene.
        frames: Pictures [T, Y, X, 3], uint8.
        waveform: Sound [S], in [-1, 1].
        true: True pictures, decoded by the same codec.
    """
    import math

    from baton_lightning.world.scene import Scene
    from baton_lightning.world.scores import score

    clip = model.clip
    judged = score(Scene.from_dict(meta["scene"]), frames.cpu().numpy(), waveform.float().cpu().numpy(), clip.fps, clip.sample_rate)
    error = (frames.double() - true.double()).square().mean().item()
    psnr = 10 * math.log10(255**2 / error) if error else None
    return {name: value for name, value in (("p_acc", judged.p_acc), ("desync_p", judged.desync_p), ("psnr", psnr)) if value is not None}


def compared(pairs: Sequence[tuple[dict[str, float], dict[str, float]]], name: str) -> dict[str, Any] | None:
    """Means of a score over the pairs in which both clips have it, and the interval of their difference; ``None`` if there are none."""
    from baton_lightning.plan.intervals import bootstrap

    both = [(pasted[name], known[name]) for pasted, known in pairs if name in pasted and name in known]
    if not both:
        return None
    pasted, known = (sum(column) / len(both) for column in zip(*both, strict=True))
    return {"pasted": pasted, "known": known, "gain": bootstrap([after - before for before, after in both])}
