"""Parameter groups and the schedule."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
from torch import nn

from baton_lightning.estimate.optimiser import cost
from baton_lightning.optim import WarmupCosine, build_optimizer, parameter_groups


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.trunk = nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.queries = nn.Parameter(torch.zeros(3, 4))


def names(module: nn.Module, group: dict) -> set[str]:
    inside = {id(p) for p in group["params"]}
    return {n for n, p in module.named_parameters() if id(p) in inside}


def test_only_weights_of_layers_decay() -> None:
    module = Small()
    decaying, still = parameter_groups(module)
    assert names(module, decaying) == {"trunk.0.weight", "trunk.2.weight", "head.weight"}
    assert "weight_decay" not in decaying
    assert still["weight_decay"] == 0


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    module = Small()
    module.trunk[0].requires_grad_(False)
    grouped = [names(module, g) for g in parameter_groups(module, {"trunk": 0.1, "trunk.2": 0.5})]
    assert sorted(n for g in grouped for n in g) == sorted(n for n, p in module.named_parameters() if p.requires_grad)


def test_the_longest_name_sets_the_rate_and_the_factory_the_rest() -> None:
    module = Small()
    optimizer = build_optimizer(module, partial(torch.optim.AdamW, lr=1.0, weight_decay=0.3), rates={"trunk": 0.1, "trunk.2": 0.5})[
        "optimizer"
    ]
    rate = {n: g["lr"] for g in optimizer.param_groups for n in names(module, g)}
    decay = {n: g["weight_decay"] for g in optimizer.param_groups for n in names(module, g)}
    assert rate["trunk.0.weight"] == rate["trunk.0.bias"] == pytest.approx(0.1)
    assert rate["trunk.2.weight"] == pytest.approx(0.5)
    assert rate["head.weight"] == rate["queries"] == 1.0
    assert decay["trunk.0.weight"] == 0.3
    assert decay["queries"] == decay["words.weight"] == decay["trunk.0.bias"] == 0.0
    assert optimizer.param_groups[0]["lr"] == 1.0, "the logged rate is the full one"


def test_a_name_may_stand_for_several_parts() -> None:
    module = Small()
    grouped = {g["name"]: names(module, g) for g in parameter_groups(module, {"trunk": 0.1, "trunk.*.weight": 2.0})}
    assert grouped["trunk.*.weight"] == {"trunk.0.weight", "trunk.2.weight"}
    assert grouped["trunk.no_decay"] == {"trunk.0.bias", "trunk.2.bias"}
    assert grouped["trunk.*.weight.no_decay"] == {"trunk.1.weight"}


def test_unknown_parts_and_nothing_to_train_are_refused() -> None:
    with pytest.raises(ValueError, match="model.init_args.rates: 'trunkk' matches no part .* the nearest names are trunk"):
        parameter_groups(Small(), {"trunkk": 1.0})
    with pytest.raises(ValueError, match="positive factors on the learning rate, got trunk: 0; freeze"):
        parameter_groups(Small(), {"trunk": 0.0})
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(Small().requires_grad_(False))


def test_the_rate_warms_up_turns_and_stays_at_the_floor() -> None:
    module = Small()
    built = build_optimizer(
        module, partial(torch.optim.SGD, lr=2.0), partial(WarmupCosine, warmup_steps=4, total_steps=12, floor=0.1), {"head": 0.5}
    )
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    assert built["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(16):
        rates.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    full = [r[0] for r in rates]
    assert full[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert full[4] == 2.0
    assert full[8] == pytest.approx(2.0 * 0.55)
    assert full[12:] == pytest.approx([0.2] * 4)
    for step in rates:
        assert step[-1] == pytest.approx(step[0] / 2), "a part keeps its share of the rate"


def test_a_restored_schedule_goes_on_where_it_stopped() -> None:
    def fresh() -> tuple[torch.optim.Optimizer, WarmupCosine]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, WarmupCosine(optimizer, warmup_steps=3, total_steps=10)

    (optimizer, schedule), (other, restored) = fresh(), fresh()
    for _ in range(6):
        optimizer.step()
        schedule.step()
    other.load_state_dict(optimizer.state_dict())
    restored.load_state_dict(schedule.state_dict())
    for opt, sch in ((optimizer, schedule), (other, restored)):
        opt.step()
        sch.step()
    assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"]


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="init_args.warmup_steps must be .* which follows trainer.max_steps, got 10 of 10"):
        WarmupCosine(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), warmup_steps=10, total_steps=10)


def test_moments_in_8_bits_take_a_quarter_and_go_on_from_a_saved_state_to_the_bit() -> None:
    eight_bit = pytest.importorskip("bitsandbytes.optim", reason="an extra: pip install -e .[eight-bit]").AdamW8bit
    assert cost(partial(eight_bit, lr=1e-3)).states < 2.1 < 8 <= cost(partial(torch.optim.AdamW, lr=1e-3)).states

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Linear(96, 96)
        return module, eight_bit(parameter_groups(module), lr=1e-3)

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            given = torch.randn(8, 96, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            (module(given) - given.flip(1)).square().mean().backward()
            optimizer.step()

    whole, first, again = made(), made(), made()
    train(*whole, range(6))
    train(*first, range(3))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    for part, state in zip(again, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*again, range(3, 6))
    assert torch.equal(whole[0].weight, again[0].weight) and not torch.equal(whole[0].weight, first[0].weight)
