"""Training of probes on the clips of a run's data set, and their accuracy on held-out clips."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from baton_lightning.batch import Plan
from baton_lightning.generation.pipeline import Pipeline
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.decoder import squared_error
from baton_lightning.plan.probes import Probes
from baton_lightning.plan.reading import read
from baton_lightning.world.scene import Scene

AT_ONCE = 50
MOST_CLIPS = 2000
"""Clips of a batch, and largest number of training clips."""


@dataclass(frozen=True)
class Accuracy:
    """Facts that were read correctly, and the error of the decoded keyframes.

    Args:
        right: Number of correct facts by name.
        facts: Number of facts by name.
        clips: Number of clips.
        error: Mean squared error of the decoded keyframes, in grey levels of 0 to 255.
    """

    right: dict[str, int]
    facts: dict[str, int]
    clips: int
    error: float

    @property
    def share(self) -> float:
        """Correct facts / facts."""
        return sum(self.right.values()) / sum(self.facts.values())

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the decoded keyframes, of all clips together, in dB."""
        return 10 * math.log10(255**2 / self.error) if self.error else math.inf


def scene_of(metadata: dict[str, object], name: str) -> Scene:
    """The scene of a clip of the data set.

    Raises:
        ValueError: If the clip is not of the benchmark world.
    """
    if not isinstance(scene := metadata.get("scene"), dict):
        raise ValueError(
            f"the data set of {name} must be of the benchmark world, whose clips have a `scene`, {metadata.get('key')!s:.60} has none"
        )
    return Scene.from_dict(scene)


def true_plans(pipe: Pipeline, split: str, most: int | None = None) -> Iterator[tuple[list[dict[str, Any]], Plan]]:
    """Metadata and ground-truth plans of the clips of a split, in batches.

    Args:
        pipe: A run with its data set.
        split: Split of the data set.
        most: Largest number of clips; ``None`` = all.

    Raises:
        ValueError: If the run has no data set.
    """
    dataset = pipe.dataset(split)
    described = dataset.metadata()[:most]
    for start in tqdm(range(0, len(described), AT_ONCE), desc=f"plans of {split}", mininterval=1):
        rows = range(start, min(start + AT_ONCE, len(described)))
        batch = dataset.batch(rows).to(pipe.generator.placement.device)
        yield [described[row] for row in rows], pipe.generator.true_plan(batch).to("cpu")


def truths(pipe: Pipeline, split: str, most: int | None = None) -> Iterator[tuple[list[Scene], Plan]]:
    """Scenes and ground-truth plans of a split, in batches; arguments as for :func:`true_plans`.

    Raises:
        ValueError: If the run has no data set, or the data set is not of the benchmark world.
    """
    for described, plan in true_plans(pipe, split, most):
        yield [scene_of(metadata, pipe.name) for metadata in described], plan


def train(pipe: Pipeline, split: str = "train") -> Probes:
    """Probes of the run's feature space, trained on the first 2,000 clips of a split.

    Raises:
        ValueError: If the run has no data set, the data set is not of the benchmark world, or the plan's grid is too coarse.
    """
    clip, statistics = pipe.generator.model.clip, pipe.statistics
    Probes(clip)  # refuses a grid before anything is read
    scenes: list[Scene] = []
    parts: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for found, plan in truths(pipe, split, MOST_CLIPS):
        scenes += found
        for name, tokens in (("video", plan.video), ("audio", plan.audio)):
            parts[name].append(tokens.float() * statistics[name][1] + statistics[name][0])
    return Probes.fit(clip, scenes, torch.cat(parts["video"]), torch.cat(parts["audio"]), statistics)


def accuracy(pipe: Pipeline, probes: Probes, split: str = "val", *, planned: bool = False) -> Accuracy:
    """Accuracy of the probes on plans of a split.

    Args:
        pipe: A run with its data set.
        probes: The probes.
        split: Split of the data set.
        planned: Whether the planner's tokens for the clips' prompts are read, not the ground-truth plans.

    Raises:
        ValueError: As for :func:`truths`; also if ``planned`` and the run has no planner.
    """
    right: dict[str, int] = {}
    facts: dict[str, int] = {}
    clips, errors = 0, 0.0
    described = pipe.dataset(split).metadata()
    for scenes, plan in truths(pipe, split):
        for row, scene in enumerate(scenes):
            prompts = described[clips]["video_prompt"], described[clips]["audio_prompt"]
            shown = pipe.plan(*prompts) if planned else ClipPlan.of(plan, row, probes.clip, statistics=pipe.statistics)
            for name, holds in read(shown, probes).checks(scene):
                right[name], facts[name] = right.get(name, 0) + holds, facts.get(name, 0) + 1
            pictures = probes.pictures(shown)
            errors += math.nan if pictures is None else squared_error(pictures, scene, probes.clip)
            clips += 1
    return Accuracy(right, facts, clips, errors / clips)
