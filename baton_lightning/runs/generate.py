"""`generate`: mp4s with sound from a finished stage-3 run, for held-out prompts of its data or for prompts of your own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton_lightning.batch import Batch
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
    made.add_argument("--video-prompt", help="a prompt of your own: what is seen")
    made.add_argument("--audio-prompt", help="what is heard; goes with --video-prompt")
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
    if options.video_prompt and options.plan not in ("planned", "none"):
        raise ValueError(f"generate: a prompt of your own has no true clip, so --plan must be planned or none, got {options.plan}")

    import torch
    from rich.console import Console
    from tqdm import tqdm

    from baton_lightning.media import write_mp4
    from baton_lightning.runs.handover import hand_over
    from baton_lightning.runs.load import load_run
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
    batches = own_prompt(model, options) if options.video_prompt else held_out(data, options.num, options.batch_size)
    total, scored = 0, True
    with torch.no_grad():
        for batch, metadata in tqdm(list(batches), desc=f"generate {options.plan}", unit="batch"):
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


def own_prompt(model: JointTraining, options: argparse.Namespace) -> list[tuple[Batch, list[dict[str, Any]]]]:
    """One batch with one prompt; its context comes from the run's text encoder."""
    import torch

    from baton_lightning.batch import Batch

    padded = model.padded(model.borrowed("text_encoder").context([options.video_prompt], [options.audio_prompt]))
    meta = {"video_prompt": options.video_prompt, "audio_prompt": options.audio_prompt}
    batch = Batch(["prompt"], torch.zeros(1, dtype=torch.long), 0, [options.video_prompt], [options.audio_prompt], context=padded)
    return [(batch, [meta])]
