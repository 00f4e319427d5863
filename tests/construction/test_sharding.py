"""What ZeRO-3 does to a stage as it is made: parameters alone are rounded, and rank 0 alone makes them, one by one from the meta device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from baton_lightning.construction.deepspeed_cpu import CPUDeepSpeedStrategy
from baton_lightning.construction.networks import construct
from baton_lightning.deferred import fill
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.stages.loss_by_time import LossByTime
from baton_lightning.stages.plan_regression import RSquared


class Partitions:
    """DeepSpeed's partitioning without ranks: a parameter is marked and keeps its values."""

    local_device = torch.device("cpu")

    def __init__(self, **_: Any) -> None: ...

    def _convert_to_zero_parameters(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.ds_id = 0


class Stage(LightningModule):
    """A stage with everything that must stay float32: rotary frequencies, statistics, and sums of metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.ModuleList([RSquared(), LossByTime()])
        self.made_on: list[str] = []
        self.read = 0

    def build(self) -> None:
        self.made_on.append(torch.empty(()).device.type)
        self.llm, self.norm, self.head = TinyLLM(width=16, depth=1, num_heads=2, num_kv_heads=1), FeatureNorm(4), nn.Linear(4, 4)

    def weights_of_parent(self) -> torch.Tensor:
        self.read += 1
        return torch.full((4, 4), 1 / 3)

    def load_parents(self) -> None:
        fill(self.head.weight, self.weights_of_parent)


@pytest.fixture(params=[0, 1], ids=["first rank", "second rank"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Stage]:
    """A rank, and the stage as it makes it under ZeRO-3 in bf16-mixed."""
    monkeypatch.setattr("deepspeed.zero.Init", Partitions)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: request.param)
    stage, strategy = Stage(), CPUDeepSpeedStrategy(stage=3)
    strategy.config = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}
    stage._trainer = SimpleNamespace(strategy=strategy)
    construct(stage, stage.build, stage.load_parents, skip_pretrained=True)
    return request.param, stage


def test_parameters_alone_are_rounded(made: tuple[int, Stage]) -> None:
    _, stage = made
    assert {parameter.dtype for parameter in stage.parameters()} == {torch.bfloat16}
    kept = {name: buffer.dtype for name, buffer in stage.named_buffers() if buffer.is_floating_point()}
    assert kept == {
        "norm.mean": torch.float32,
        "norm.std": torch.float32,
        **{name: torch.float32 for name in kept if name.endswith("inv_freq")},
    }
    assert any(name.endswith("rotary_emb.inv_freq") for name in kept)
    sums = [value for score in stage.scores for name, default in score._defaults.items() for value in (default, getattr(score, name))]
    assert len(sums) == 8 and {value.dtype for value in sums} == {torch.float64}
    exact = TinyLLM(width=16, depth=1, num_heads=2, num_kv_heads=1).model.rotary_emb.inv_freq
    assert torch.equal(stage.llm.model.rotary_emb.inv_freq, exact)


def test_networks_are_made_without_memory_and_the_first_rank_alone_reads_parents(made: tuple[int, Stage]) -> None:
    rank, stage = made
    assert stage.made_on == ["meta"] and stage.read == (1 if rank == 0 else 0)
    assert not any(parameter.is_meta for parameter in stage.parameters())
    assert rank or torch.equal(stage.head.weight, torch.full((4, 4), 1 / 3).bfloat16())
