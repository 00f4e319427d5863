"""`generate`: mp4s with sound from a stage-3 run, for held-out prompts of its data or for prompts of your own."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import trust
from baton_lightning.arguments import require_at_least_one
from baton_lightning.generation.described import require_run
from baton_lightning.names import require_name
from baton_lightning.runs import manifest

if TYPE_CHECKING:
    from torch import Tensor

    from baton_lightning.batch import Batch, Plan
    from baton_lightning.generation.generator import Generator
    from baton_lightning.generation.requests import Requests
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.stages.joint import JointTraining

PLANS = ("planned", "truth", "shuffled", "none", "ceiling")
SCALES = ("video_scale", "audio_scale", "plan_scale")
EXAMPLES = """examples:
  held-out prompts of the run's data, scored if they are the benchmark world's:
    python -m baton_lightning generate --run runs/demo/stage3_joint --num 8 --out clips

  a plan that was made, looked at and perhaps edited (python -m baton_lightning plan --help):
    python -m baton_lightning generate --run runs/demo/stage3_joint --plan plan.safetensors --out clips

  a prompt of your own, another noise, on a GPU that holds one network at a time:
    python -m baton_lightning generate --run runs/paper/stage3 --out mine --device cuda --offload --seed 1 \\
        --video-prompt "a dog barks at the door" --audio-prompt "a dog barks twice"
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m baton_lightning generate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run = made.add_argument_group("which run")
    run.add_argument(
        "--run",
        type=Path,
        required=True,
        help="run folder of a stage 3, e.g. runs/demo/stage3_joint; its planner's, if the clips need it, is looked for beside it",
    )
    run.add_argument("--ckpt", type=Path, metavar="FILE", help="take this checkpoint in the run's folder; the run need not be finished")
    run.add_argument("--dit", type=Path, metavar="RUN", help="take the transformer of this stage-3 run instead, e.g. of the adaptation")
    run.add_argument("--data", type=Path, metavar="FOLDER", help="where the run's data set is now (default: where it was)")

    run.add_argument(
        "--trust",
        action="append",
        default=[],
        type=trust.package,
        metavar="NAME",
        help="package whose code the run may name",
    )

    asked = made.add_argument_group("which clips")
    asked.add_argument(
        "--plan",
        default="planned",
        metavar="{planned,truth,shuffled,none,ceiling,FILE}",
        help="what the generator follows: the planner's tokens, the clip's own features, another prompt's plan, no plan; "
        "`ceiling` only passes the true clip through the codecs; FILE is a plan of `plan make` or `plan edit`, with its prompts "
        "(default: %(default)s)",
    )
    asked.add_argument("--num", type=int, default=8, help="held-out prompts a tier (default: %(default)s)")
    asked.add_argument("--split", default="test", help="part of the data set that they are from, e.g. ood (default: %(default)s)")
    asked.add_argument("--video-prompt", help="a prompt of your own: what is seen")
    asked.add_argument("--audio-prompt", help="what is heard; goes with --video-prompt")
    asked.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='prompts of your own, as JSON: {"key": {"video_prompt": ..., "audio_prompt": ...}, ...}, or the file of Verse-Bench; clips '
        "are named after the keys",
    )

    sampling = made.add_argument_group("how they are sampled (default: as the run says)")
    sampling.add_argument("--seed", type=int, help="of the noise; the same one gives the same clips")
    sampling.add_argument("--steps", type=int, help="steps of the sampler")
    for name, what in zip(SCALES, ("the text's guidance on video", "the text's guidance on audio", "the plan's guidance"), strict=True):
        sampling.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=f"{what}; 1 guides nothing and costs nothing")

    where = made.add_argument_group("where they are made")
    where.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:n (default: %(default)s)")
    where.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="type of planner's and transformer's weights; auto is bfloat16 on a GPU, float32 on the CPU (default: %(default)s)",
    )
    where.add_argument(
        "--offload", action="store_true", help="only one of text encoder, planner, transformer and codecs on the device at a time"
    )
    where.add_argument("--batch-size", type=int, default=16, help="clips generated together (default: %(default)s)")

    out = made.add_argument_group("where they go")
    out.add_argument("--out", type=Path, required=True, help="folder for k.mp4, k.json and scores.json; must hold no clips")
    out.add_argument("--force", action="store_true", help="replace clips that an earlier `generate` left in --out")
    return made


def check(options: argparse.Namespace) -> None:
    """Refuses options that contradict each other or are out of range.

    Raises:
        ValueError: Naming the option.
    """
    if options.plan not in PLANS and not Path(options.plan).is_file():
        raise ValueError(f"generate: --plan must be one of {', '.join(PLANS)}, or the file of a plan, got {options.plan}")
    if options.plan not in PLANS and (options.prompts or options.video_prompt):
        raise ValueError("generate: a plan's file has its prompts; give --plan FILE, or prompts of your own")
    if bool(options.video_prompt) != bool(options.audio_prompt):
        raise ValueError("generate: --video-prompt and --audio-prompt go together; give both or neither")
    if options.prompts and options.video_prompt:
        raise ValueError("generate: give --prompts or --video-prompt, not both")
    if (options.prompts or options.video_prompt) and options.plan not in ("planned", "none"):
        raise ValueError(f"generate: a prompt of your own has no true clip, so --plan must be planned or none, got {options.plan}")
    require_at_least_one("generate", options, "num", "batch_size")
    if options.steps is not None:
        require_at_least_one("generate", options, "steps")
    for name in SCALES:
        if (value := getattr(options, name)) is not None and not math.isfinite(value):
            raise ValueError(f"generate: --{name.replace('_', '-')} must be a finite number, got {value}")


def adjust(model: JointTraining, options: argparse.Namespace) -> dict[str, Any]:
    """Lets the options override what the run says of sampling; gives what then holds."""
    if options.seed is not None:
        model.seed = options.seed
    if options.steps is not None:
        model.sampler.steps = options.steps
    for name in SCALES:
        if getattr(options, name) is not None:
            setattr(model.guidance, name, getattr(options, name))
    return {"seed": model.seed, "steps": model.sampler.steps} | {name: getattr(model.guidance, name) for name in SCALES}


def plan_of(generator: Generator, requests: Requests, place: int, batch: Batch, plan: str | ClipPlan) -> Plan | None:
    """What the clips of a batch follow. The shuffled plan of a batch of one is that of a clip of the batch before."""
    if not isinstance(plan, str):
        return plan.batched(batch.index.device)
    if plan == "none":
        return None
    if plan == "truth":
        return generator.true_plan(batch)
    if plan == "shuffled" and len(batch) == 1:
        other, _ = requests[place - 1]
        return generator.plan(other.first(1).to(batch.index.device))
    planned = generator.plan(batch)
    return planned.roll() if plan == "shuffled" else planned


def clips_of(generator: Generator, requests: Requests, place: int, batch: Batch, plan: str | ClipPlan) -> tuple[Tensor, Tensor]:
    """Frames and waveforms of a batch under one condition."""
    batch = batch.to(generator.placement.device)
    if plan == "ceiling":
        assert batch.video_latents is not None and batch.audio_latents is not None
        return generator.decode(batch.video_latents, batch.audio_latents)
    if generator.model.guidance.guides_text:
        generator.embed_negatives(generator.placement.device)  # before the planner is there: it may need the encoder's room
    return generator.decode(*generator.sample(batch, plan_of(generator, requests, place, batch, plan)))


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    check(options)
    require_run(options.run, options.ckpt)
    if options.dit is not None:
        manifest.read(options.dit)

    import torch
    from rich.console import Console
    from tqdm import tqdm

    from baton_lightning.construction.handover import hand_over
    from baton_lightning.evaluation.scores import score_folder, show
    from baton_lightning.generation import folder, requests
    from baton_lightning.generation.generator import Generator
    from baton_lightning.generation.load import load_run
    from baton_lightning.placement import Placement, device_of, dtype_of
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.stages import plan_space
    from baton_lightning.stages.cached_plan import CachedPlan
    from baton_lightning.stages.plan_sources import PlannedTokens

    placement = Placement(device_of(options.device), offload=options.offload)
    dtype = dtype_of(options.dtype, placement.device)
    given = options.plan if options.plan in PLANS else ClipPlan.load(options.plan)
    own = requests.own_prompts(options) if isinstance(given, str) else requests.of_plan(given, Path(options.plan))
    folder.require_free(options.out, force=options.force)
    follows = options.plan not in ("none", "ceiling")
    model, data, weights = load_run(
        options.run, checkpoint=options.ckpt, data=options.data, follows=follows, cached=not own, trusted=options.trust
    )
    if options.plan in ("planned", "shuffled") and not isinstance(model.plan, PlannedTokens):
        raise ValueError(
            f"generate: {options.run} was trained on ground-truth plans and has no planner; use --plan truth or none, or a joint run"
        )
    if options.dit is not None:
        hand_over(model.dit, options.dit, source="dit", clip=model.clip)
        if follows:
            plan_space.drift(model.plan, options.dit)
    if weights:
        print(f"generate: NOT the final weights of {options.run}/, but {weights} ({options.ckpt})", file=sys.stderr, flush=True)
    told = {"plan": options.plan, "run": str(options.run), "dtype": str(dtype).removeprefix("torch.")} | adjust(model, options)
    told |= {"weights": f"{weights} ({options.ckpt})"} if weights else {}
    told |= {"dit": str(options.dit)} if options.dit is not None else {}
    if isinstance(given, ClipPlan):
        given.require_fits(model.clip, plan_space.statistics(model.plan), plan_space.DRIFT)
        told |= {"plan_sha256": given.digest, "edits": list(given.edits)}
    if own and options.plan == "planned" and isinstance(model.plan, CachedPlan):
        model.plan.built_planner(torch.device("cpu"))  # no cache has these prompts
    generator = Generator(model, placement)
    generator.settle(dtype, follows=options.plan != "none", denoises=options.plan != "ceiling")
    if own:
        wanted = requests.of_prompts(generator, own, options.batch_size)
    else:
        data.splits["test"] = options.split
        wanted = requests.held_out(data, options.num, options.batch_size)
    if options.plan == "shuffled" and wanted.num_clips < 2:
        raise ValueError("generate: --plan shuffled gives each clip the plan of another, so there must be two or more; raise --num")
    folder.prepare(options.out, force=options.force)
    total, scored = 0, True
    with torch.no_grad():
        for place, (batch, metadata) in enumerate(tqdm(wanted, desc=f"generate {options.plan}", unit="batch")):
            frames, waveform = clips_of(generator, wanted, place, batch, given)
            for i, (key, meta) in enumerate(zip(batch.keys, metadata, strict=True)):
                file = options.out / f"{require_name(key, 'the key of a clip')}.mp4"
                file.with_suffix(".json").write_text(json.dumps(meta | told, indent=1))
                generator.write(file, frames[i], waveform[i])
                total, scored = total + 1, scored and "scene" in meta
    if scored:
        show(score_folder(options.out), Console())
    print(f"wrote {total} clips to {options.out}/")
    return 0
