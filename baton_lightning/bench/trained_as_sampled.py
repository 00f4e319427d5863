"""Comparison of the transformer's inputs in training and in sampling, for the same clip at the same flow time.

A training step is run on a clip. Then sampling is started from the same noisy clip at the same flow time. All inputs of the transformer
must be bitwise identical in both. Training reads the text from the cache; sampling embeds the prompts if the run names a text encoder.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baton_lightning.batch import Batch, Plan
from baton_lightning.flow import path
from baton_lightning.flow.sampler import EulerSampler
from baton_lightning.generation.generator import Generator
from baton_lightning.stages import flow_matching
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import PlannedTokens

TIMES = (0.25, 0.5, 0.75)
"""Flow times that are exact in the scheduler's 1000 time steps."""


@dataclass(frozen=True)
class Row:
    """One input of the transformer.

    Args:
        name: Name of the input.
        difference: Largest absolute difference between training and sampling; infinite if only one of them has it, or shapes or types
            differ.
    """

    name: str
    difference: float


class FixedTime:
    """A distribution of flow times that always draws the same time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def draw(self, *, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Flow times [B]."""
        return torch.full((len(index),), self.t)


class OneStep(EulerSampler):
    """A sampler with a single evaluation at a given flow time."""

    def __init__(self, t: float) -> None:
        super().__init__(steps=1, shift=1.0)
        self.start = t


@contextmanager
def calls_of(network: torch.nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Context that records the arguments of every call of a transformer, by name."""
    names = ("video", "audio", "t", "video_context", "audio_context", "plan")
    calls: list[dict[str, Any]] = []
    hook = network.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(dict(zip(names, args, strict=False)) | kwargs), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def plainly(model: JointTraining, t: float) -> Iterator[None]:
    """Context in which a model works at one flow time, without guidance.

    Random choices that only training makes are switched off: dropout of plans and captions, and the use of ground-truth plans.
    """
    settings = {"timesteps": FixedTime(t), "sampler": OneStep(t), "guidance": type(model.guidance)()}
    changed: list[tuple[object, dict[str, Any]]] = [(model, settings | {"plan_dropout": 0.0, "caption_dropout": 0.0})]
    if isinstance(model.plan, PlannedTokens):
        changed.append((model.plan, {"truth_share": 0.0}))
    kept = [(owner, {name: getattr(owner, name) for name in values}) for owner, values in changed]
    try:
        for owner, values in changed:
            for name, value in values.items():
                setattr(owner, name, value)
        yield
    finally:
        for owner, values in kept:
            for name, value in values.items():
                setattr(owner, name, value)


def tensors_of(call: dict[str, Any], like: Tensor) -> dict[str, Tensor]:
    """Arguments of a call, flattened to tensors. A missing plan mask becomes a mask of ones; a missing known mask becomes zeros."""
    plan: Plan | None = call["plan"]
    found = {name: call[name] for name in ("video", "audio", "t", "video_context", "audio_context")}
    if plan is not None:
        has = call.get("has_plan")
        found |= {"plan.video": plan.video, "plan.audio": plan.audio, "plan.grid": torch.tensor(plan.video_grid)}
        found |= {f"plan.{name}": x for name in ("video_times", "audio_times") if (x := getattr(plan, name)) is not None}
        found["has_plan"] = torch.ones(len(like), dtype=torch.bool) if has is None else has
    places = {"known_video": (call["video"].shape[0], *call["video"].shape[2:]), "known_audio": tuple(call["audio"].shape[:2])}
    for name, shape in places.items():
        known = call.get(name)
        found[name] = torch.zeros(shape, dtype=torch.bool) if known is None else known
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def run(run: Path, *, data: Path | None = None, num: int = 4, trusted: Sequence[str] = ()) -> int:
    """Prints differences between the transformer's inputs in training and in sampling, for validation clips at several flow times.

    Args:
        run: Run folder of a stage 3.
        data: Current folder of its data set; ``None`` = the folder that the run recorded.
        num: Number of clips to compare.
        trusted: Packages whose classes the run may name in addition to the library's.

    Returns:
        0 if all tensors are bitwise identical, otherwise 1.

    Raises:
        ValueError: If the run or its data cannot be read.
    """
    from baton_lightning.generation.load import load_run

    model, module, _ = load_run(run, data=data, trusted=trusted)
    assert isinstance(model, JointTraining)
    module.setup("validate")
    dataset = module.val_dataset
    batch = dataset.batch(list(range(min(num, len(dataset)))))
    prompts = model.component_factories["text_encoder"] is not None
    found = {t: {row.name: row.difference for row in compare(model, batch, t, prompts=prompts)} for t in TIMES}
    texts = "embedded again from the prompts" if prompts else "read from the cache in both, as the run names no text encoder"
    print(f"{run}/: {len(batch)} validation clips, training against sampling; texts are {texts}")
    print(f"{'input':<20}" + "".join(f"{f't = {t:g}':>14}" for t in TIMES))
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    for name in names:
        differences = [found[t].get(name, float("inf")) for t in TIMES]
        print(f"{name:<20}" + "".join(f"{d:>14.2e}" for d in differences) + ("" if not any(differences) else "  DIFFERS"))
    differing = [name for name in names if any(found[t].get(name, float("inf")) for t in TIMES)]
    print("sampling equals training: every tensor is bit-identical" if not differing else f"DIFFERS in {', '.join(differing)}")
    return 1 if differing else 0


def compare(model: JointTraining, batch: Batch, t: float, *, prompts: bool = False) -> list[Row]:
    """Compares the transformer's inputs in training and in sampling, for the clips of a batch with the plan of the run.

    Args:
        model: A stage 3 with its networks; its tasks are used in both.
        batch: Clips with latents, context, and features if the plan needs them.
        t: Flow time, one of :data:`TIMES`.
        prompts: Whether sampling embeds the prompts instead of reading the cached text.
    """
    assert batch.video_latents is not None and batch.audio_latents is not None and batch.context is not None
    with plainly(model, t), calls_of(model.dit) as calls, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning warns that nothing is logged without a trainer
        model.training_step(batch, 0)
        generator = Generator(model)
        clean = flow_matching.clean_latents(batch)
        noise = flow_matching.noise(batch, seed=model.seed, epoch=batch.epoch, purpose="noise")
        given = flow_matching.held_in(
            batch, noise, None if model.tasks.plain else model.tasks.draw(batch.index, batch.epoch, batch.geometry)
        )
        time = torch.full((len(batch),), t, device=batch.context.device)
        start = tuple(path.interpolate(clean[name], noise[name], time) for name in ("video", "audio"))
        context = generator.contexts(batch.video_prompts, batch.audio_prompts).to(batch.context) if prompts else batch.context
        plan = generator.plan(replace(batch, context=context))
        generator.denoise(start, context, plan, given)
    trained, sampled = (tensors_of(call, batch.index) for call in calls)
    return [Row(name, difference(trained.get(name), sampled.get(name))) for name in {**trained, **sampled}]


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """Largest absolute difference; infinite if one tensor is missing, or shapes or types differ."""
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    return 0.0 if torch.equal(a, b) else (a.double() - b.double()).abs().max().item()
