"""`generate`: generates mp4s with sound from a stage-3 run, for held-out prompts of its data or for prompts of your own."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import next_steps
from baton_lightning.generation import folder
from baton_lightning.generation.run_description import require_run
from baton_lightning.names import PLAN_SUFFIX, counted, printable, require_name
from baton_lightning.runs import manifest
from baton_lightning.verbs.generate_options import PLANS, SAVINGS, SCALES, check, form_of, parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from baton_lightning.batch import Batch, Plan
    from baton_lightning.flow.given import Given
    from baton_lightning.generation.generator import Generator
    from baton_lightning.generation.requests import Requests
    from baton_lightning.metrics.prompts import Prompt
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.stages.joint import JointTraining


def print_prompt_warnings(generator: Generator, prompts: dict[str, Prompt]) -> None:
    """Prints warnings about prompts that the run may not understand, once and before generation starts."""
    import warnings

    from baton_lightning.generation.prompt_warnings import prompt_warnings

    encoder = generator.components.built("text_encoder")
    for sentence in prompt_warnings(getattr(encoder, "tokenizer", None), prompts.values()):
        print(f"generate: {printable(sentence)}", file=sys.stderr, flush=True)
    warnings.filterwarnings("ignore", message="the run's vocabulary does not have")  # otherwise each network would repeat the warning


def adjust(model: JointTraining, options: argparse.Namespace) -> dict[str, Any]:
    """Overrides the run's sampling settings with the options. Returns the resulting settings."""
    if options.seed is not None:
        model.seed = options.seed
    if options.steps is not None:
        model.sampler.steps = options.steps
    for name in SCALES:
        if getattr(options, name) is not None:
            setattr(model.guidance, name, getattr(options, name))
    saved: dict[str, Any] = {name: tuple(value) if name == "guided" else value for name in SAVINGS if (value := getattr(options, name))}
    model.sampler.savings = replace(model.sampler.savings, **saved)
    chosen = {"seed": model.seed, "steps": model.sampler.steps} | {name: getattr(model.guidance, name) for name in SCALES}
    return chosen | ({"savings": asdict(model.sampler.savings)} if model.sampler.savings != type(model.sampler.savings)() else {})


def plan_of(generator: Generator, requests: Requests, place: int, batch: Batch, plan: str | ClipPlan) -> Plan | None:
    """Plan of a batch; ``None`` = no plan. If the batch has one clip, its shuffled plan is that of a clip of the previous batch."""
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


def clips_of(
    generator: Generator, requests: Requests, place: int, batch: Batch, plan: str | ClipPlan, held: Callable[[Batch], Given]
) -> tuple[Tensor, Tensor, Plan | None]:
    """Generates the clips of a batch.

    Args:
        generator: Generator of the clips.
        requests: All batches.
        place: Index of the batch in ``requests``.
        batch: The batch.
        plan: Kind of plan, one of :data:`PLANS`, or the plan of a file.
        held: Returns the latents of a batch that are given and not generated.

    Returns:
        Frames [B, T, Y, X, 3], uint8, waveforms [B, S], in [-1, 1], and the plan that they follow; ``None`` = none.
    """
    batch = batch.to(generator.placement.device)
    if plan == "ceiling":
        assert batch.video_latents is not None and batch.audio_latents is not None
        return *generator.decode(batch.video_latents, batch.audio_latents), None
    if generator.model.guidance.guides_text:
        generator.embed_negatives(generator.placement.device)  # before the planner is moved to the device, where both may not fit
    followed = plan_of(generator, requests, place, batch, plan)
    return *generator.decode(*generator.sample(batch, followed, held(batch))), followed


def save_plan(file: Path, generator: Generator, plan: Plan, row: int, meta: dict[str, Any], source: str | ClipPlan) -> None:
    """Writes the plan that a clip follows, with the clip's prompts.

    Args:
        file: The plan's file.
        generator: Generator of the clip.
        plan: Plan of the batch.
        row: Index of the clip in the batch.
        meta: Metadata of the clip.
        source: Kind of plan, or the plan of a file, which is written as it is.
    """
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.stages import plan_space

    if isinstance(source, str):
        prompts = {name: str(meta.get(name, "")) for name in ("video_prompt", "audio_prompt")}
        statistics = plan_space.statistics(generator.model.plan)
        origin = "truth" if source == "truth" else "planner"
        source = ClipPlan.of(plan, row, generator.model.clip, statistics=statistics, source=origin, **prompts)
    source.save(file)


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    check(options)
    require_run(options.run, options.ckpt)
    if options.dit is not None:
        manifest.read(options.dit)
    folder.require_free(options.out, force=options.force)

    import torch
    from rich.console import Console
    from tqdm import tqdm

    from baton_lightning.construction.handover import hand_over
    from baton_lightning.evaluation.scores import score_folder, show
    from baton_lightning.flow.given import NOTHING
    from baton_lightning.generation import conditions, requests
    from baton_lightning.generation.generator import Generator
    from baton_lightning.generation.load import load_run
    from baton_lightning.generation.no_data import NoData
    from baton_lightning.placement import Placement, parse_device, parse_dtype
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.stages import plan_space
    from baton_lightning.stages.cached_plan import CachedPlan
    from baton_lightning.stages.plan_sources import PlannedTokens

    placement = Placement(parse_device(options.device), offload=options.offload)
    dtype = parse_dtype(options.dtype, placement.device)
    plan = options.plan if options.plan in PLANS else ClipPlan.load(options.plan)
    own = requests.own_prompts(options) if isinstance(plan, str) else requests.of_plan(plan, Path(options.plan))
    follows = options.plan not in ("none", "ceiling")
    model, data, weights = load_run(
        options.run,
        checkpoint=options.ckpt,
        data=options.data,
        follows=follows,
        cached=not own,
        latents=not own,
        geometry=options.geometry,
        trusted=options.trust,
    )
    if isinstance(data, NoData) and not own:
        raise ValueError(
            f"generate: {options.run}/ is an export and has no data set, so no held-out prompts; give --prompts FILE, or --data FOLDER"
        )
    if options.plan in ("planned", "shuffled") and not isinstance(model.plan, PlannedTokens):
        raise ValueError(
            f"generate: {options.run} was trained without a planner; use --plan none, --plan truth if it knows true plans, or a joint run"
        )
    if options.dit is not None:
        hand_over(model.dit, options.dit, source="dit", clip=model.clip)
        if follows:
            plan_space.drift(model.plan, options.dit)
    if weights:
        print(f"generate: NOT the final weights of {options.run}/, but {weights} ({options.ckpt})", file=sys.stderr, flush=True)
    metadata = {"plan": options.plan, "run": str(options.run), "dtype": str(dtype).removeprefix("torch.")} | adjust(model, options)
    metadata |= {"weights": f"{weights} ({options.ckpt})"} if weights else {}
    metadata |= {"dit": str(options.dit)} if options.dit is not None else {}
    if isinstance(plan, ClipPlan):
        plan.require_fits(model.clip, plan_space.statistics(model.plan), plan_space.DRIFT)
        metadata |= {"plan_sha256": plan.digest, "edits": list(plan.edits)}
    if own and options.plan == "planned" and isinstance(model.plan, CachedPlan):
        model.plan.built_planner(torch.device("cpu"))  # the cache has no plans of these prompts
    generator = Generator(model, placement)
    generator.place_networks(dtype, follows=options.plan != "none", denoises=options.plan != "ceiling")
    if own:
        print_prompt_warnings(generator, own)
        wanted = requests.of_prompts(generator, own, options.batch_size)
    else:
        data.splits["test"] = options.split
        wanted = requests.held_out(data, options.num, options.batch_size)
    if options.plan == "shuffled" and wanted.num_clips < 2:
        raise ValueError("generate: --plan shuffled gives each clip the plan of another, so there must be two or more; raise --num")
    given = conditions.read(generator, options, form) if (form := form_of(options)) is not None else None
    task = None if options.task is None else conditions.task_of(options.task)
    metadata |= {} if form is None else {"given": form, "given_file": str(getattr(options, form))}
    metadata |= {} if task is None else {"task": options.task}

    def held(batch: Batch) -> Given:
        if given is not None:
            return given.held(batch)
        return NOTHING if task is None else conditions.held_by_task(task, generator, batch)

    folder.prepare(options.out, force=options.force)
    total, scored = 0, True
    with torch.no_grad():
        for place, (batch, of_clips) in enumerate(tqdm(wanted, desc=f"generate {options.plan}", unit="batch")):
            frames, waveform, followed = clips_of(generator, wanted, place, batch, plan, held)
            for i, (key, meta) in enumerate(zip(batch.keys, of_clips, strict=True)):
                file = options.out / f"{require_name(key, 'the key of a clip')}.mp4"
                file.with_suffix(".json").write_text(json.dumps(meta | metadata, indent=1))
                if options.save_plans and followed is not None:
                    save_plan(file.with_suffix(PLAN_SUFFIX), generator, followed, i, meta, plan)
                generator.write(file, *((frames[i], waveform[i]) if given is None else given.complete(frames[i], waveform[i])))
                total, scored = total + 1, scored and "scene" in meta
    if scored:
        show(score_folder(options.out), Console())
    print(f"wrote {counted(total, 'clip')} to {options.out}/")
    next_steps.name("report", options.out)
    return 0
