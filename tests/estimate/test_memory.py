"""What `estimate` foresees of an optimiser's step, against real steps whose every tensor is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from baton_lightning.estimate.footprint import LiveTensors
from baton_lightning.estimate.memory import Buckets, Load, buckets, enough, peaks, unsharded, zero
from baton_lightning.estimate.optimiser import Cost, cost

WIDTHS = (128, 256, 256)


def load(optimizer=AdamW, **changes) -> Load:
    sizes = [width * width for width in WIDTHS]
    return Load(**{"groups": (sum(sizes),), "largest": max(sizes), "frozen": 0, "frozen_bytes": 0, "low": False, "cost": cost(optimizer)}
        | {"average": False, "activations": 0, "sampling": 0} | changes)  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "states", "group", "tensor", "before"),
    [
        (AdamW, 8, 4, 0, 0),
        (partial(AdamW, foreach=False), 8, 0, 8, 4),
        (partial(AdamW, fused=True), 8, 0, 0, 0),
        (partial(AdamW, amsgrad=True), 12, 4, 0, 0),
        (partial(SGD, momentum=0.9), 4, 0, 0, 0),
    ],
)
def test_an_optimiser_s_states_and_temporaries_are_its_own(optimizer, states, group, tensor, before):
    found = cost(optimizer)
    assert (found.states, found.group, found.tensor, found.before) == pytest.approx((states, group, tensor, before), abs=0.01)


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=str)
def test_a_step_of_adamw_takes_what_is_foreseen(options):
    optimizer = partial(AdamW, **options)
    with LiveTensors("cpu") as live:
        net = nn.ModuleList(nn.Linear(width, width, bias=False) for width in WIDTHS)
        stepper = optimizer(net.parameters())
        for _ in range(2):
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter)
            live.peak = live.now
            stepper.step()
    assert live.peak == pytest.approx(unsharded(load(optimizer), 0).step, rel=0.02)


@pytest.mark.slow
def test_steps_of_deepspeed_s_own_engine_take_what_is_foreseen():
    script = Path(__file__).with_name("deepspeed_peaks.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 10
    for row in rows:
        sizes = Buckets(reduce=1, gather=1, sub_group=row["sub_group"])
        given = load(partial(AdamW, foreach=row["foreach"], fused=row["fused"]), groups=(row["elements"],), low=row["low"])
        foreseen = zero(given, 1, row["stage"], sizes)
        kept = row["elements"] * (2 if row["low"] else 4) if row["stage"] == 3 else 0  # its buffer of gradients
        assert row["states"] == pytest.approx(foreseen.states + kept, rel=0.03), row
        assert row["step"] == pytest.approx(foreseen.step, rel=0.03), row


def test_states_shrink_with_the_zero_stage_and_frozen_weights_cost_two_bytes():
    given = load(groups=(1000,), largest=1000, frozen=500, frozen_bytes=2000, low=True, cost=Cost(8, 0, 0, 0))
    alone, shared = peaks(given, 1, Buckets()), peaks(given, 4, Buckets())
    assert alone["ZeRO-1"].states == alone["ZeRO-2"].states == alone["ZeRO-3"].states == 14 * 1000 + 2 * 500
    assert alone["none"].states == 12 * 1000 + 2000 and shared["DDP"].states == 16 * 1000 + 2000
    assert shared["ZeRO-1"].states == shared["ZeRO-2"].states == 2 * 1500 + 12 * 250 > shared["ZeRO-3"].states == 2 * 375 + 12 * 250
    assert shared["ZeRO-1"].backward - shared["ZeRO-2"].backward == 2 * 750
    assert shared["offload"].states == 0 < shared["offload"].offloaded


def test_a_small_sub_group_and_a_fused_optimiser_lower_the_peak_of_the_step():
    adamw, fused, sizes = load(low=True), load(low=True, cost=Cost(8, 0, 0, 0)), Buckets(reduce=0, gather=0)
    whole, small = zero(adamw, 1, 3, sizes), zero(adamw, 1, 3, Buckets(reduce=0, gather=0, sub_group=1000))
    assert whole.step == pytest.approx(24 * adamw.trained, rel=0.01) and small.step == pytest.approx(16 * adamw.trained, rel=0.02)
    assert zero(fused, 1, 3, sizes).step == pytest.approx(22 * adamw.trained, rel=0.01)


def test_more_gpus_make_room_for_what_does_not_fit_on_one():
    given = load(groups=(10**9,), largest=10**6, low=True)
    assert enough(given, Buckets(), 80e9) == 1 and enough(given, Buckets(), 5e9) == 8 and enough(given, Buckets(), 1e9) is None


def test_sizes_come_from_the_experiment_s_strategy():
    class Strategy(dict):
        @property
        def init_args(self):
            return self

    assert buckets("auto") == Buckets()
    assert buckets(Strategy(stage=3, sub_group_size=5, reduce_bucket_size=7)) == Buckets(reduce=7, sub_group=5)
    own = {"zero_optimization": {"stage": 3, "sub_group_size": 9}}
    assert buckets(Strategy(config=own)) == Buckets(500_000_000, 500_000_000, 9, True)
