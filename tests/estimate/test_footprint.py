"""The walk on the meta device against the same step on real tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baton_lightning.estimate.cli import build
from baton_lightning.estimate.footprint import LiveTensors, footprint, joint_step, planner_step


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def taken(stage: str, device: str, *options: str):
    model = build(["-c", f"experiments/{stage}.yaml", *options], device)[0]
    step = joint_step if hasattr(model, "dit") else planner_step
    return footprint(model, step(model, 4, torch.float32, device, 24))


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3_adapt", "stage3_joint"])
def test_the_peak_is_within_a_tenth_of_the_one_measured_and_the_arithmetic_is_the_same(stage):
    foreseen, measured = taken(stage, "meta"), taken(stage, "cpu")
    assert foreseen.activations == pytest.approx(measured.activations, rel=0.1)
    assert foreseen.flops == measured.flops > 0


def test_recomputing_halves_activations_at_least_and_costs_more_arithmetic():
    kept = taken("stage3_adapt", "meta")
    recomputed = taken("stage3_adapt", "meta", "--model.init_args.dit.init_args.recompute=true")
    assert recomputed.activations < kept.activations / 2 and recomputed.flops > kept.flops
    measured = taken("stage3_adapt", "cpu", "--model.init_args.dit.init_args.recompute=true")
    assert recomputed.activations == pytest.approx(measured.activations, rel=0.1)


def test_a_walk_leaves_no_gradients_and_no_hooks():
    model = build(["-c", "experiments/stage1.yaml"], "cpu")[0]
    footprint(model, planner_step(model, 1, torch.float32, "cpu", 8))
    assert all(p.grad is None for p in model.parameters())
    planner_step(model, 1, torch.float32, "cpu", 8)().backward()
    assert any(p.grad is not None for p in model.parameters())


def test_live_tensors_are_counted_once_and_forgotten():
    with LiveTensors() as live:
        kept = torch.zeros(1000)
        view = kept.view(10, 100)
        assert live.now == 4000 and len(view) == 10
        torch.zeros(500)
    assert live.peak == 6000 and live.now == 4000
