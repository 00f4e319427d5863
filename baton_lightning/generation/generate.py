"""`generate`: mp4s with sound from a finished stage-3 run, for held-out prompts of its data or for prompts of your own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.arguments import require_at_least_one

if TYPE_CHECKING:
    from baton_lightning.batch import Batch
    from baton_lightning.metrics.prompts import Prompt
    from baton_lightning.stages.joint import JointTraining

PLANS = ("planned", "truth", "shuffled", "none", "ceiling")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m baton_lightning generate", description=__doc__)
    made.add_argument("--run", type=Path, required=True, help="run folder of a finished stage 3, e.g. runs/demo/stage3_joint")
    made.add_argument("--out", type=Path, required=True, help="folder for k.mp4, k.json and scores.json")
    made.add_argument(
        "--plan",
        choices=PLANS,
        default="planned",
        help="what the generator follows: the planner's tokens, the clip's own features, another prompt's plan, no plan; "
        "`ceiling` only passes the true clip through the codecs (default: %(default)s)",
    )
    made.add_argument("--dit", type=Path, metavar="RUN", help="take the transformer of this stage-3 run instead, e.g. of the adaptation")
    made.add_argument("--num", type=int, default=8, help="held-out prompts a tier (default: %(default)s)")
    made.add_argument("--split", default="test", help="part of the data set that they are from, e.g. ood (default: %(default)s)")
    made.add_argument("--video-prompt", help="a prompt of your own: what is seen")
    made.add_argument("--audio-prompt", help="what is heard; goes with --video-prompt")
    made.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='prompts of your own, as JSON: {"key": {"video_prompt": ..., "audio_prompt": ...}, ...}, or the file of Verse-Bench; clips '
        "are named after the keys",
    )
    made.add_argument(
        "--plan-scale", type=float, help="guidance on the plan; 1 guides nothing, 2 doubles the work (default: the run's own)"
    )
    made.add_argument("--batch-size", type=int, default=16, help="clips generated together (default: %(default)s)")
    return made


def clips_of(model: JointTraining, batch: Batch, plan: str) -> tuple[Any, Any]:
    """Frames and waveform of a batch under one condition."""
    if plan == "ceiling":
        assert batch.video_latents is not None and batch.audio_latents is not None
        return model.decode(batch.video_latents, batch.audio_latents)
    if plan == "none":
        return model.decode(*model.sample(batch, None))
    if plan == "truth":
        return model.decode(*model.sample(batch, model.plan.truth(batch)))
    planned = model.plan.planned(batch)  # type: ignore[union-attr]
    return model.decode(*model.sample(batch, planned.roll() if plan == "shuffled" else planned))


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    if bool(options.video_prompt) != bool(options.audio_prompt):
        raise ValueError("generate: --video-prompt and --audio-prompt go together; give both or neither")
    if options.prompts and options.video_prompt:
        raise ValueError("generate: give --prompts or --video-prompt, not both")
    require_at_least_one("generate", options, "num", "batch_size")
    own = own_prompts(options)
    if own and options.plan not in ("planned", "none"):
        raise ValueError(f"generate: a prompt of your own has no true clip, so --plan must be planned or none, got {options.plan}")

    import torch
    from rich.console import Console
    from tqdm import tqdm

    from baton_lightning.generation.load import load_run
    from baton_lightning.media import write_mp4
    from baton_lightning.runs.handover import hand_over
    from baton_lightning.stages.plan_sources import PlannedTokens
    from baton_lightning.world.evaluate import score_folder, show

    model, data = load_run(options.run)
    if options.plan in ("planned", "shuffled") and not isinstance(model.plan, PlannedTokens):
        raise ValueError(
            f"generate: {options.run} was trained on ground-truth plans and has no planner; use --plan truth or none, or a joint run"
        )
    if options.dit is not None:
        hand_over(model.dit, options.dit, source="dit", clip=model.clip)
    model.eval()
    if options.plan_scale is not None:
        model.guidance.plan_scale = options.plan_scale
    options.out.mkdir(parents=True, exist_ok=True)
    if own:
        batches = batches_of(model, own, options.batch_size)
    else:
        data.splits["test"] = options.split
        batches = held_out(data, options.num, options.batch_size)
    total, scored = 0, True
    with torch.no_grad():
        for batch, metadata in tqdm(batches, desc=f"generate {options.plan}", unit="batch"):
            frames, waveform = clips_of(model, batch, options.plan)
            for i, (key, meta) in enumerate(zip(batch.keys, metadata, strict=True)):
                file = options.out / f"{key}.mp4"
                write_mp4(file, frames[i].cpu().numpy(), model.clip.fps, waveform[i].cpu().numpy(), model.clip.sample_rate)
                file.with_suffix(".json").write_text(json.dumps(meta | {"plan": options.plan, "run": str(options.run)}, indent=1))
                total, scored = total + 1, scored and "scene" in meta
    if scored:
        show(score_folder(options.out), Console())
    print(f"wrote {total} clips to {options.out}/")
    return 0


def held_out(data: Any, num: int, batch_size: int) -> list[tuple[Batch, list[dict[str, Any]]]]:
    """The first ``num`` test clips of every tier, in batches of one tier, with their metadata."""
    data.setup("test")
    dataset = data.test_dataset
    tiers: dict[str, list[int]] = {}
    described = dataset.metadata()
    for position, meta in enumerate(described):
        chosen = tiers.setdefault(meta.get("tier", "all"), [])
        if len(chosen) < num:
            chosen.append(position)
    batches = []
    for positions in tiers.values():
        for start in range(0, len(positions), batch_size):
            part = positions[start : start + batch_size]
            batches.append((dataset.batch(part), [described[p] for p in part]))
    return batches


def own_prompts(options: argparse.Namespace) -> dict[str, Prompt]:
    """Prompts that were given, by the names of their clips; empty if none were.

    Raises:
        ValueError: If a file cannot be read, is empty, or has a key that is no file name.
    """
    from baton_lightning.metrics.prompts import Prompt, read_prompts

    if options.video_prompt:
        return {"prompt": Prompt(options.video_prompt, options.audio_prompt)}
    if options.prompts is None:
        return {}
    prompts = read_prompts(options.prompts)
    if not prompts:
        raise ValueError(f"generate: {options.prompts} must hold at least one prompt")
    if wrong := [key for key in prompts if key in ("", ".", "..") or "/" in key]:
        raise ValueError(f"generate: {options.prompts}: clips are named after their keys, so a key must be a file name, got {wrong[0]!r}")
    return prompts


def batches_of(model: JointTraining, prompts: dict[str, Prompt], batch_size: int) -> list[tuple[Batch, list[dict[str, Any]]]]:
    """Prompts in batches; their contexts come from the run's text encoder, the noise from their places."""
    import torch

    from baton_lightning.batch import Batch

    encoder, batches = model.borrowed("text_encoder"), []
    keys = list(prompts)
    for start in range(0, len(keys), batch_size):
        part = keys[start : start + batch_size]
        seen, heard = ([getattr(prompts[key], name) for key in part] for name in ("video_prompt", "audio_prompt"))
        batch = Batch(part, torch.arange(start, start + len(part)), 0, seen, heard, context=model.padded(encoder.context(seen, heard)))
        batches.append((batch, [prompts[key].to_dict() for key in part]))
    return batches
