"""The Python API: plans and clips of a run.

import baton_lightning as baton

pipe = baton.load("runs/demo/stage3_joint")
plan = pipe.plan("a red circle on the left. first the red circle jumps.", "first a thump.")
plan.save_png("plan.png")
print(pipe.words(plan))
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
from baton_lightning.flow.condition import Condition
from baton_lightning.flow.given import evaluate
from baton_lightning.flow.path import interpolate
from baton_lightning.generation.clip import GeneratedClip
from baton_lightning.generation.generator import Generator
from baton_lightning.generation.plan_shares import PlanShares, recording
from baton_lightning.plan import picture
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.probes import Probes
from baton_lightning.plan.words import NoProbes, PlanWords, probes_of_run, words_of
from baton_lightning.stages import plan_space
from baton_lightning.stages.plan_sources import PlannedTokens


class Pipeline:
    """Plans and clips of one run, one clip at a time. :attr:`generator` has the separate steps, in batches.

    Args:
        generator: Generates the clips.
        data: Data set of the run, for held-out clips and their ground-truth plans; ``None`` = none.
        planner: SHA-256 of the planner's weights; ``None`` = unknown.
        run: Folder of the run; ``None`` = none.
    """

    def __init__(self, generator: Generator, data: Any = None, planner: str | None = None, run: Path | None = None) -> None:
        self.generator, self.data, self.planner_digest, self.run = generator, data, planner, run
        self.datasets: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """Name of the run in messages."""
        return "the run" if self.run is None else f"{self.run}/"

    @property
    def statistics(self) -> dict[str, torch.Tensor]:
        """Modality -> mean and standard deviation [2, C] of the run's features."""
        return plan_space.statistics(self.generator.model.plan)

    # ---- plans
    def plan(self, video_prompt: str, audio_prompt: str) -> ClipPlan:
        """The planner's tokens for a prompt.

        Args:
            video_prompt: Description of the picture.
            audio_prompt: Description of the sound.

        Raises:
            ValueError: If the run has no planner.
        """
        self.require_planner()
        batch = Batch(["prompt"], torch.zeros(1, dtype=torch.long), 0, [video_prompt], [audio_prompt])
        found = self.generator.plan(batch.to(self.generator.placement.device))
        return self._of(found, 0, video_prompt, audio_prompt, "planner")

    def require_planner(self) -> None:
        """Refuses a run without a planner.

        Raises:
            ValueError: If the run has none.
        """
        if not isinstance(self.generator.model.plan, PlannedTokens):
            raise ValueError(f"{self.name} was trained on the clips' own features and has no planner; load a joint run")

    def held_out(self, key: str, split: str = "test") -> tuple[ClipPlan, ClipPlan | None]:
        """Plans of a clip of the data set: the ground-truth plan, and the planner's plan, if the run has a planner.

        Args:
            key: Key of the clip.
            split: Split of the data set.

        Raises:
            ValueError: If the run has no data set, or no clip of this key.
        """
        batch = self._batch(key, split)
        seen, heard = batch.video_prompts[0], batch.audio_prompts[0]
        truth = self._of(self.generator.true_plan(batch), 0, seen, heard, "truth")
        return truth, self.plan(seen, heard) if isinstance(self.generator.model.plan, PlannedTokens) else None

    def words(self, plan: ClipPlan, probes: str | Path | None = None) -> PlanWords:
        """What a plan says in words, and where it differs from its prompts. Printed, or in a notebook, it is the table of `plan show`.

        Args:
            plan: The plan.
            probes: File of the probes that read it, see `plan probes`; ``None`` = the run's.

        Raises:
            ValueError: If the run has no probes, the file is damaged, or the plan is of another feature space.
        """
        return words_of(plan, probes_of_run(self.run) if probes is None else Probes.load(Path(probes)))

    def show(self, plan: ClipPlan) -> None:
        """Shows a plan with its decoded keyframes, in a notebook or in the system's viewer, and prints its words.

        A run without probes shows the tokens alone, and a line says how to make probes.

        Raises:
            ValueError: As for :meth:`words`.
        """
        try:
            probes = probes_of_run(self.run)
        except NoProbes as error:
            plan.show()
            print(error)
            return
        picture.show(plan.png(pictures=probes.pictures(plan)))
        print(words_of(plan, probes))

    def dataset(self, split: str) -> Any:
        """Clips of a split of the run's data set: ``metadata()`` of all clips, and ``batch(positions)``.

        Args:
            split: Split of the data set.

        Raises:
            ValueError: If the run has no data set, or the data set has no such split.
        """
        if self.data is None:
            raise ValueError(f"{self.name} has no data set here, so it has no clips; name its folder with data=")
        if split not in self.datasets:
            self.data.splits["test"] = split
            vars(self.data).pop("test_dataset", None)  # a datamodule opens a split once
            self.data.setup("test")
            self.datasets[split] = self.data.test_dataset
        return self.datasets[split]

    def _batch(self, key: str, split: str) -> Batch:
        dataset = self.dataset(split)
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
            run="" if self.run is None else str(self.run.absolute()),
        )

    # ---- clips
    def __call__(self, plan: ClipPlan | str, audio_prompt: str | None = None, *, seed: int | None = None) -> GeneratedClip:
        """Generates a clip from a plan or from prompts.

        Args:
            plan: A plan, or the video prompt.
            audio_prompt: The audio prompt, if ``plan`` is a video prompt; a plan has its own prompts.
            seed: Seed of the noise; ``None`` = the run's.

        Raises:
            ValueError: If only one prompt is given, or the plan does not match the run.
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
        """Generates a clip from the text only. Compared with a clip of the same seed, it shows the effect of the plan."""
        return self._clip(None, video_prompt, audio_prompt, seed)

    def attention(self, plan: ClipPlan, *, seed: int | None = None, t: float = 0.5) -> PlanShares:
        """What the latents of a plan's clip read in the plan.

        The clip is generated, its latents are mixed with their noise again, and the transformer is evaluated once.

        Args:
            plan: The plan.
            seed: Seed of the noise; ``None`` = the run's.
            t: Flow time of the evaluation, above 0 and at most 1 (noise).

        Raises:
            ValueError: If the plan does not match the run, ``t`` is not a flow time, or the transformer has no layers of the plan's own.
        """
        if not 0 < t <= 1:
            raise ValueError(f"t must be a flow time above 0, clean, and at most 1, noise; got {t}")
        plan.require_fits(self.generator.model.clip, self.statistics)
        dit = self.generator.model.dit
        condition, noise, clean = self._denoised(plan, plan.video_prompt, plan.audio_prompt, seed)
        time = torch.full((1,), t, device=noise[0].device)
        video, audio = (interpolate(latents, start, time) for latents, start in zip(clean, noise, strict=True))
        with torch.no_grad(), recording(dit) as found:
            evaluate(dit, video, audio, time, condition)
        return PlanShares(plan.clip, torch.stack(found["video"]), torch.stack(found["audio"]), t)

    def _denoised(
        self, plan: ClipPlan | None, video_prompt: str, audio_prompt: str, seed: int | None
    ) -> tuple[Condition, tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """What one clip is made from, text and plan, and noise; and its latents."""
        generator, device = self.generator, self.generator.placement.device
        context = generator.contexts([video_prompt], [audio_prompt]).to(device)
        noise = generator.noise(torch.zeros(1, dtype=torch.long), device, seed=seed)
        followed = None if plan is None else plan.batched(device)
        return Condition(context, context, followed), noise, generator.denoise(noise, context, followed)

    def _clip(self, plan: ClipPlan | None, video_prompt: str, audio_prompt: str, seed: int | None) -> GeneratedClip:
        model = self.generator.model
        seed = model.seed if seed is None else seed
        _, _, latents = self._denoised(plan, video_prompt, audio_prompt, seed)
        frames, audio = self.generator.decode(*latents)
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
    geometry: str | None = None,
    trust: Sequence[str] = (),
) -> Pipeline:
    """Loads a run for planning and generation.

    Args:
        run: Folder of a stage-3 run or of its export, or the name of weights that come with the library, e.g. ``nano``. The planner's run
            is searched beside a run.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:n``.
        dtype: Type of the weights: ``auto`` (bfloat16 on a GPU, float32 on the CPU), ``float32`` or ``bfloat16``.
        data: Current folder of its data set; ``None`` = the configured folder.
        checkpoint: A checkpoint in the run's folder; ``None`` = its final weights.
        geometry: Size and duration of the clips, e.g. ``960x544x5s``, one of the run's; ``None`` = the first one.
        trust: Packages besides the library whose classes the run may name; classes of other packages are not imported.

    Raises:
        ValueError: If the run is not finished, names classes of other packages, is not a stage 3, or its parents are not found.
    """
    from baton_lightning.generation.load import load_run
    from baton_lightning.generation.no_data import NoData
    from baton_lightning.generation.pretrained import folder_of
    from baton_lightning.placement import DTYPES, Placement, parse_device, parse_dtype
    from baton_lightning.runs import manifest

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    placement, run = Placement(parse_device(device), offload=False), folder_of(run)
    where, source = (Path(path) if path else None for path in (checkpoint, data))
    model, module, _ = load_run(run, checkpoint=where, data=source, geometry=geometry, latents=False, trusted=trust)
    generator = Generator(model, placement)  # load_run refuses other modules
    generator.place_networks(parse_dtype(dtype, placement.device))
    record = manifest.read(run) if (run / manifest.NAME).exists() else {}
    planner = record.get("parents", {}).get("planner", {}).get("weights_sha256")
    return Pipeline(generator, None if isinstance(module, NoData) else module, planner, run)
