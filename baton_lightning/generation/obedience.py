"""Measures how clips of a run obey edits of their plans; see :mod:`baton_lightning.plan.obedience`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from baton_lightning.generation.pipeline import Pipeline
from baton_lightning.generation.probing import scene_of
from baton_lightning.plan import obedience
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.obedience import Trial
from baton_lightning.plan.reading import Reading
from baton_lightning.world.detect_audio import detect_audio
from baton_lightning.world.detect_video import detect_video
from baton_lightning.world.scene import Scene

Job = tuple[int, ClipPlan]
"""Position of the prompt in the split, which determines the noise, and a plan."""


def measure(
    pipe: Pipeline, edits: Sequence[str] = obedience.EDITS, num: int = 50, *, split: str = "test", truth: bool = False, batch_size: int = 16
) -> dict[str, Any]:
    """Edits plans of held-out prompts, generates clips with and without the edit from the same noise, and compares them.

    Args:
        pipe: A run with its data set.
        edits: Edits to measure.
        num: Prompts of each edit: the first of the split with several events that allow it.
        split: Split of the data set.
        truth: Whether the ground-truth plans are edited, not the planner's.
        batch_size: Clips generated together.

    Returns:
        ``edits``: edit -> rates with intervals; ``clips``: one entry per edited clip.

    Raises:
        ValueError: If the run has no planner and ``truth`` is not set, or no prompt of the split allows an edit.
    """
    if not truth:
        pipe.require_planner()
    described = pipe.dataset(split).metadata()
    scenes = {k: scene for k, meta in enumerate(described) if len((scene := scene_of(meta, pipe.name)).events) > 1}
    trials = {edit: chosen(edit, scenes, num, pipe) for edit in edits}
    if missing := [edit for edit, found in trials.items() if not found]:
        raise ValueError(
            f"plan obey: no prompt of the split {split} with several events allows the edit {missing[0]}; give another --split"
        )
    sources = sorted({k for found in trials.values() for index, trial in found for k in (index, trial.other) if k >= 0})
    plans = {k: plan_of(pipe, k, split, truth) for k in tqdm(sources, desc="plans", mininterval=1)}
    unedited = sorted({index for found in trials.values() for index, _ in found})
    jobs = [(index, plans[index]) for index in unedited]
    jobs += [(index, edited(plans, index, trial)) for found in trials.values() for index, trial in found]
    readings = list(tqdm(clips_of(pipe, jobs, batch_size), desc="clips", total=len(jobs), mininterval=1))
    before, after = dict(zip(unedited, readings, strict=False)), iter(readings[len(unedited) :])
    clips: list[dict[str, Any]] = []
    for index, trial in (pair for found in trials.values() for pair in found):
        judged = obedience.judge(scenes[index], trial, before[index], next(after))
        clips.append({"key": described[index]["key"]} | judged | {"operation": trial.operation})
    return {"edits": {edit: obedience.summary([row for row in clips if row["edit"] == edit]) for edit in edits}, "clips": clips}


def chosen(edit: str, scenes: dict[int, Scene], num: int, pipe: Pipeline) -> list[tuple[int, Trial]]:
    """The first scenes that allow an edit, each with its trial."""
    clip, positions = pipe.generator.model.clip, list(scenes)
    found: list[tuple[int, Trial]] = []
    for place, index in enumerate(positions):
        if edit == "splice":
            trial = obedience.splice(list(scenes.values()), place, clip)
            trial = replace(trial, other=positions[trial.other]) if trial else None
        else:
            trial = {"shift": obedience.shift, "swap": obedience.swap}[edit](scenes[index], clip)
        found += [(index, trial)] if trial else []
        if len(found) == num:
            break
    return found


def plan_of(pipe: Pipeline, index: int, split: str, truth: bool) -> ClipPlan:
    """The plan of a clip of the data set."""
    if truth:
        return pipe.held_out(pipe.dataset(split).metadata()[index]["key"], split)[0]
    meta = pipe.dataset(split).metadata()[index]
    return pipe.plan(meta["video_prompt"], meta["audio_prompt"])


def edited(plans: dict[int, ClipPlan], index: int, trial: Trial) -> ClipPlan:
    """The edited plan of a clip."""
    return plans[index].edited(trial.operation, others=[plans[trial.other]] if trial.other >= 0 else [])


def clips_of(pipe: Pipeline, jobs: Sequence[Job], batch_size: int) -> Iterator[Reading]:
    """Generates the clip of each plan and yields what the world's detectors find in it."""
    generator, clip = pipe.generator, pipe.generator.model.clip
    device = generator.placement.device
    for start in range(0, len(jobs), batch_size):
        part = jobs[start : start + batch_size]
        plans = [plan for _, plan in part]
        joined = [plan.batched(device) for plan in plans]
        plan = replace(joined[0], video=torch.cat([one.video for one in joined]), audio=torch.cat([one.audio for one in joined]))
        context = generator.contexts([one.video_prompt for one in plans], [one.audio_prompt for one in plans]).to(device)
        noise = generator.noise(torch.tensor([index for index, _ in part]), device)
        frames, sound = generator.decode(*generator.denoise(noise, context, plan))
        for picture, waveform in zip(frames.cpu().numpy(), sound.float().cpu().numpy(), strict=True):
            yield Reading(detect_video(picture, clip.fps), detect_audio(waveform, clip.sample_rate))
