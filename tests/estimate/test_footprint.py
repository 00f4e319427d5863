"""The walk on the meta device against the same step on real tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baton_lightning.estimate import footprint as planning
from baton_lightning.estimate.footprint import (
    LiveTensors,
    attention_backward_flops,
    attention_flops,
    footprint,
    forward_peak,
    joint_step,
    planner_step,
)
from baton_lightning.estimate.parameters import build


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def taken(stage: str, device: str, *options: str):
    model = build(["-c", f"experiments/{stage}.yaml", *options], device)[0]
    step = joint_step if hasattr(model, "dit") else planner_step
    return footprint(model, step(model, 4, torch.float32, device, 24))


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3_adapt", pytest.param("stage3_joint", marks=pytest.mark.slow)])
def test_the_peak_is_within_a_tenth_of_the_one_measured_and_the_arithmetic_is_the_same(stage):
    foreseen, measured = taken(stage, "meta"), taken(stage, "cpu")
    assert foreseen.activations == pytest.approx(measured.activations, rel=0.1)
    assert foreseen.flops == measured.flops > 0


@pytest.mark.slow
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
    with LiveTensors("cpu") as live:
        kept = torch.zeros(1000)
        view = kept.view(10, 100)
        assert live.now == 4000 and len(view) == 10
        torch.zeros(500)
    assert live.peak == 6000 and live.now == 4000


def test_causal_attention_is_a_triangle_of_products():
    query = (2, 3, 5, 7)
    assert attention_flops(query, query, query) == 4 * 2 * 3 * 7 * 25
    assert attention_flops(query, query, query, 0.0, True) == 4 * 2 * 3 * 7 * 15
    assert attention_backward_flops(query, query, query, query, query, query, 0.0, True) * 2 == 5 * 4 * 2 * 3 * 7 * 15


def test_the_planner_s_own_attention_is_counted_as_causal(monkeypatch):
    model = build(["-c", "experiments/stage1.yaml"], "meta")[0]
    seen = []
    monkeypatch.setattr(planning, "attention_flops", lambda *args, **options: seen.append(args[4]) or attention_flops(*args, **options))
    planning.footprint(model, planner_step(model, 1, torch.float32, "meta", 24))
    assert seen.count(True) == 2 * len(model.planner.language.llm.model.layers)  # forward and backward


def test_a_forward_without_gradients_keeps_less_than_a_step():
    model = build(["-c", "experiments/stage3_adapt.yaml"], "meta")[0]
    step = joint_step(model, 2, torch.float32, "meta")
    assert 0 < forward_peak(model, step) < footprint(model, step).activations / 2
