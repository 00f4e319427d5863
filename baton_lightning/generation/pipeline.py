"""The Python API: a run that plans, and makes clips from plans or prompts.

import baton_lightning as baton

pipe = baton.load("runs/demo/stage3_joint")
plan = pipe.plan("a red circle on the left. first the red circle jumps.", "first a thump.")
plan.save_png("plan.png")
clip = pipe(plan, seed=1)
clip.save("clip.mp4", scale=8)
later = pipe(plan.shift(0.5, start=0.3, stop=0.9), seed=1)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baton_lightning.batch import Batch, Plan
from baton_lightning.generation.clip import GeneratedClip
from baton_lightning.generation.generator import Generator
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.stages import plan_space
from baton_lightning.stages.plan_sources import PlannedTokens


class Pipeline:
    """Plans and clips of one run, one clip at a time. :attr:`generator` runs the steps alone, in batches.

    Args:
        generator: What makes clips.
        data: Data set of the run, for held-out clips and their true plans; ``None`` where there is none.
        planner: SHA-256 of the planner's weights, if known.
        name: What to call the run in messages.
    """

    def __init__(self, generator: Generator, data: Any = None, planner: str | None = None, name: str = "the run") -> None:
        self.generator, self.data, self.planner_digest, self.name = generator, data, planner, name

    @property
    def statistics(self) -> dict[str, torch.Tensor]:
        """Modality -> mean and standard deviation [2, C] of the run's plan space."""
        return plan_space.statistics(self.generator.model.plan)

    # ---- plans
    def plan(self, video_prompt: str, audio_prompt: str) -> ClipPlan:
        """The planner's tokens for a prompt.

        Args:
            video_prompt: What is seen.
            audio_prompt: What is heard.

        Raises:
            ValueError: If the run has no planner.
        """
        if not isinstance(self.generator.model.plan, PlannedTokens):
            raise ValueError(f"{self.name} was trained on the clips' own features and has no planner; load a joint run")
        batch = Batch(["prompt"], torch.zeros(1, dtype=torch.long), 0, [video_prompt], [audio_prompt])
        found = self.generator.plan(batch.to(self.generator.placement.device))
        return self._of(found, 0, video_prompt, audio_prompt, "planner")

    def held_out(self, key: str, split: str = "test") -> tuple[ClipPlan, ClipPlan | None]:
        """Plans of a clip of the data set: that of its own features, and the planner's, if the run has one.

        Args:
            key: Key of the clip.
            split: Part of the data set.

        Raises:
            ValueError: If the run has no data set, or no clip of this key.
        """
        batch = self._batch(key, split)
        seen, heard = batch.video_prompts[0], batch.audio_prompts[0]
        truth = self._of(self.generator.true_plan(batch), 0, seen, heard, "truth")
        return truth, self.plan(seen, heard) if isinstance(self.generator.model.plan, PlannedTokens) else None

    def _batch(self, key: str, split: str) -> Batch:
        if self.data is None:
            raise ValueError(f"{self.name} has no data set here, so it has no held-out clips; name its folder with data=")
        self.data.splits["test"] = split
        self.data.setup("test")
        dataset = self.data.test_dataset
        keys = [meta["key"] for meta in dataset.metadata()]
        if key not in keys:
            raise ValueError(f"the split {split} must hold the clip, got {key!r}; its first clips are {', '.join(keys[:3])}")
        return dataset.batch([keys.index(key)]).to(self.generator.placement.device)

    def _of(self, plan: Plan, row: int, video_prompt: str, audio_prompt: str, source: str) -> ClipPlan:
        return ClipPlan.of(
            plan,
            row,
            self.generator.model.clip,
            statistics=self.statistics,
            video_prompt=video_prompt,
            audio_prompt=audio_prompt,
            source=source,
            planner=self.planner_digest if source == "planner" else None,
        )

    # ---- clips
    def __call__(self, plan: ClipPlan | str, audio_prompt: str | None = None, *, seed: int | None = None) -> GeneratedClip:
        """A clip, from a plan or from prompts.

        Args:
            plan: A plan, or what is seen.
            audio_prompt: What is heard; goes with a text for the picture, not with a plan, which has its prompts.
            seed: Seed of the noise; ``None`` takes the run's.

        Raises:
            ValueError: If prompts are given by half, or a plan does not fit the run.
        """
        if isinstance(plan, str):
            if audio_prompt is None:
                raise ValueError("a prompt has two parts, what is seen and what is heard: pipe(video_prompt, audio_prompt)")
            plan = self.plan(plan, audio_prompt)
        elif audio_prompt is not None:
            raise ValueError("a plan has its prompts; give pipe(plan) or pipe(video_prompt, audio_prompt)")
        plan.require_fits(self.generator.model.clip, self.statistics)
        return self._clip(plan, plan.video_prompt, plan.audio_prompt, seed)

    def without_plan(self, video_prompt: str, audio_prompt: str, *, seed: int | None = None) -> GeneratedClip:
        """A clip that follows the text alone: what the plan adds is the difference to it, at the same seed."""
        return self._clip(None, video_prompt, audio_prompt, seed)

    def _clip(self, plan: ClipPlan | None, video_prompt: str, audio_prompt: str, seed: int | None) -> GeneratedClip:
        generator, model = self.generator, self.generator.model
        device, seed = generator.placement.device, model.seed if seed is None else seed
        context = generator.contexts([video_prompt], [audio_prompt]).to(device)
        noise = generator.noise(torch.zeros(1, dtype=torch.long), device, seed=seed)
        followed = None if plan is None else plan.batched(device)
        frames, audio = generator.decode(*generator.denoise(noise, context, followed))
        return GeneratedClip(
            frames[0].cpu().numpy(),
            audio[0].float().cpu().numpy().astype(np.float32),
            model.clip.fps,
            model.clip.sample_rate,
            plan,
            seed,
            video_prompt,
            audio_prompt,
        )


def load(
    run: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    data: str | Path | None = None,
    checkpoint: str | Path | None = None,
    trust: Sequence[str] = (),
) -> Pipeline:
    """A run, ready to plan and to make clips.

    Args:
        run: Folder of a stage-3 run, from any working directory; its planner's run is looked for beside it.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:n``.
        dtype: Type of the weights: ``auto`` (bfloat16 on a GPU, float32 on the CPU), ``float32`` or ``bfloat16``.
        data: Where its data set is now; ``None`` looks where it was.
        checkpoint: A checkpoint in the run's folder; ``None`` takes the weights it finished with.
        trust: Packages whose classes the run may name besides the library's; others are not imported.

    Raises:
        ValueError: If the run is not finished, names other classes, its parents are not found, or it makes no clips.
    """
    from baton_lightning.generation.load import load_run
    from baton_lightning.placement import DTYPES, Placement, parse_device, parse_dtype
    from baton_lightning.runs import manifest

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    placement, run = Placement(parse_device(device), offload=False), Path(run)
    where, source = (Path(path) if path else None for path in (checkpoint, data))
    model, module, _ = load_run(run, checkpoint=where, data=source, trusted=trust)
    generator = Generator(model, placement)  # load_run refuses other modules
    generator.settle(parse_dtype(dtype, placement.device))
    told = manifest.read(run) if (run / manifest.NAME).exists() else {}
    planner = told.get("parents", {}).get("planner", {}).get("weights_sha256")
    return Pipeline(generator, module, planner, f"{run}/")
