"""Measures whether plan and clip of a run change where a prompt does; see :mod:`baton_lightning.plan.counterfactuals`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from baton_lightning.generation.obedience import clips_of
from baton_lightning.generation.pipeline import Pipeline
from baton_lightning.plan import counterfactuals
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.counterfactuals import Pair
from baton_lightning.world.prompts import prompts
from baton_lightning.world.scene import sample_scene

TIERS = ("multi", "talk")
MOST_SCENES = 20_000
"""Scenes of a tier among which pairs are searched."""


def measure(
    pipe: Pipeline, edits: Sequence[str] = counterfactuals.EDITS, num: int = 50, *, seed: int = 0, batch_size: int = 16
) -> dict[str, Any]:
    """Plans and generates pairs of prompts that differ in one respect, each pair from the same noise, and compares them.

    Args:
        pipe: A run of the benchmark world with a planner. It needs no data set.
        edits: Edits to measure.
        num: Pairs of each edit.
        seed: Seed of the scenes.
        batch_size: Clips generated together.

    Returns:
        ``edits``: edit -> rates with intervals; ``pairs``: one entry per pair, with its prompts.

    Raises:
        ValueError: If the run has no planner.
    """
    pipe.require_planner()
    clip = pipe.generator.model.clip
    found = [pair for edit in edits for pair in chosen(edit, num, pipe, seed)]
    texts = [prompts(scene) for pair in found for scene in (pair.scene, pair.other)]
    plans = [pipe.plan(*text) for text in tqdm(texts, desc="plans", mininterval=1)]
    jobs = [(index // 2, plan) for index, plan in enumerate(plans)]
    readings = list(tqdm(clips_of(pipe, jobs, batch_size), desc="clips", total=len(jobs), mininterval=1))
    rows: list[dict[str, Any]] = []
    for k, pair in enumerate(found):
        judged = counterfactuals.judge(pair, readings[2 * k], readings[2 * k + 1])
        where = counterfactuals.focus(change(plans[2 * k], plans[2 * k + 1]), counterfactuals.regions(pair, clip))
        rows.append(judged | where | {"prompts": texts[2 * k], "edited": texts[2 * k + 1]})
    return {"edits": {edit: counterfactuals.summary([row for row in rows if row["edit"] == edit]) for edit in edits}, "pairs": rows}


def change(one: ClipPlan, two: ClipPlan) -> dict[str, Any]:
    """Modality -> difference of the tokens of two plans."""
    return {name: two.tokens[name] - tokens for name, tokens in one.tokens.items()}


def chosen(edit: str, num: int, pipe: Pipeline, seed: int) -> list[Pair]:
    """The first pair of each of the first held-out scenes that have one, tiers in turn."""
    clip = pipe.generator.model.clip
    found: dict[str, Pair] = {}
    for index, tier in itertools.product(range(MOST_SCENES), TIERS):
        scene = sample_scene(seed, index, tier, clip, "test")
        pair = next(counterfactuals.pairs(scene, edit), None)
        if pair is not None:
            found.setdefault(scene.content, pair)
        if len(found) == num:
            break
    return list(found.values())
