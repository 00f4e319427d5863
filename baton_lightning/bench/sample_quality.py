"""What savings of sampling cost on the benchmark world: P-Acc of a run's held-out clips with and without them, from the same noise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from baton_lightning.bench.gpu_work import TINY
from baton_lightning.flow.guidance import Guidance
from baton_lightning.flow.sampler import EulerSampler
from baton_lightning.flow.savings import Savings
from baton_lightning.generation import requests
from baton_lightning.generation.generator import Generator
from baton_lightning.generation.load import load_run
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.stages.joint import JointTraining
from baton_lightning.world.scene import Scene
from baton_lightning.world.scores import judge

BATCH = 16


def tiny() -> SimpleNamespace:
    """What is timed without a run: a random transformer with guidance on the plan."""
    torch.manual_seed(0)
    dit = DualBranchDiT(TINY, width=96, depth=3, num_heads=4, ffn_width=256, frequency_width=64)
    return SimpleNamespace(dit=dit, guidance=Guidance(plan_scale=3.0), sampler=EulerSampler(8, 1.0), clip=TINY)


def load(run: Path, data: Path | None, trusted: Sequence[str]) -> tuple[JointTraining, Any]:
    """A run's model and data set.

    Raises:
        ValueError: If it cannot be loaded, has no plan layers of its own, or its test clips are not the benchmark world's.
    """
    model, module, _ = load_run(run, data=data, cached=True, trusted=trusted)
    assert isinstance(model, JointTraining)
    options = model.dit.plan_attention
    if options is None or not options.own_layers:
        raise ValueError(f"bench sample: {run} has no plan attention with layers of its own, so it has none to save")
    module.setup("test")
    if not all("scene" in meta for meta in module.test_dataset.metadata()):
        raise ValueError(f"bench sample: --run must be trained on the benchmark world, but test clips of {run} have no scene")
    return model, module


@torch.no_grad()
def p_acc(model: JointTraining, module: Any, cases: dict[str, Savings], num: int) -> dict[str, Any]:
    """P-Acc of the same clips for each case.

    Args:
        model: The run's model; its sampler gets the savings of each case.
        module: The run's data set.
        cases: Name -> savings; the first is compared with the others.
        num: Held-out clips a tier.

    Returns:
        Name -> ``mean``, ``num_clips``, and, of the clips' differences from the first case, their mean ``loss`` and its standard ``error``.
    """
    generator = Generator(model)
    scores: dict[str, list[float]] = {name: [] for name in cases}
    generator.place_networks(torch.float32)
    for batch, described in requests.held_out(module, num, BATCH):
        plan = generator.plan(batch)
        for name, savings in cases.items():
            model.sampler.savings = savings
            frames, sound = generator.decode(*generator.sample(batch, plan))
            for i, meta in enumerate(described):
                seen, heard = frames[i].cpu().numpy(), sound[i].float().cpu().numpy()
                found = judge(Scene.from_dict(meta["scene"]), seen, heard, model.clip.fps, model.clip.sample_rate)
                scores[name].append(found.scores.p_acc)
    first = next(iter(scores.values()))
    return {name: compared(first, found) for name, found in scores.items()}


def compared(before: list[float], after: list[float]) -> dict[str, Any]:
    """Mean of a score, and how much of it was lost, clip by clip."""
    lost = [a - b for a, b in zip(before, after, strict=True)]
    error = statistics.stdev(lost) / len(lost) ** 0.5 if len(lost) > 1 else 0.0
    return {"mean": statistics.mean(after), "loss": statistics.mean(lost), "error": error, "num_clips": len(after)}
