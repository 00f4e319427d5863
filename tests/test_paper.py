"""Settings of the experiments at the paper's size whose loss no small run would show: memory, disk, precision, guidance, placement."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.optim import AdamW

from baton_lightning import settings
from baton_lightning.estimate.memory import buckets, saves_frozen
from baton_lightning.estimate.optimiser import cost

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
READ = {path.stem: settings.read([path]) for path in sorted((EXPERIMENTS / "paper").glob("*.yaml")) if "base:" in path.read_text()}
CACHED = [name for name, given in READ.items() if "return_predictions" in given]
TRAINED = [name for name in READ if name not in CACHED and name != "base"]
WITH_DIT = [name for name in TRAINED if "dit" in READ[name]["model"]["init_args"]]


def test_the_groups_are_complete() -> None:
    assert {"stage1", "stage2", "stage3", "stage3_cached"} <= set(TRAINED) and {"encode", "plans", "statistics"} == set(CACHED)
    assert set(TRAINED) - set(WITH_DIT) == {"stage1"}


@pytest.mark.parametrize("name", TRAINED)
def test_an_optimiser_step_has_no_temporary_copies(name: str) -> None:
    optimizer = READ[name]["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    spent = cost(partial(AdamW, **optimizer["init_args"]))
    assert (spent.group, spent.tensor) == pytest.approx((0, 0), abs=0.01)


@pytest.mark.parametrize("given", [*(READ[name] for name in TRAINED), settings.read([EXPERIMENTS / "strategy/zero3.yaml"])])
def test_zero3_steps_a_part_of_the_gradients_at_a_time_and_saves_what_is_trained(given: dict[str, Any]) -> None:
    strategy = SimpleNamespace(**given["trainer"]["strategy"])
    assert strategy.init_args["stage"] == 3 and buckets(strategy).sub_group <= 10**9
    assert not saves_frozen(strategy)


@pytest.mark.parametrize("name", TRAINED)
def test_checkpoints_come_by_the_hour_and_not_by_steps(name: str) -> None:
    savers = [c["init_args"] for c in READ[name]["trainer"]["callbacks"] if c["class_path"].endswith(".AtomicCheckpoint")]
    assert len(savers) == 1 and savers[0]["every_n_train_steps"] == 0
    hours, minutes, seconds = map(int, savers[0]["train_time_interval"].split(":"))
    assert timedelta(hours=hours, minutes=minutes, seconds=seconds) >= timedelta(minutes=30)


@pytest.mark.parametrize("name", CACHED)
def test_caches_are_computed_without_autocast_on_the_clips_as_they_are(name: str) -> None:
    assert READ[name]["trainer"]["precision"] == "32-true"


@pytest.mark.parametrize("name", WITH_DIT)
def test_what_is_guided_by_text_is_also_trained_without_text(name: str) -> None:
    model = READ[name]["model"]["init_args"]
    assert max(model["guidance"]["init_args"][scale] for scale in ("video_scale", "audio_scale")) > 1
    assert 0 < model["caption_dropout"] < 1


@pytest.mark.parametrize("name", WITH_DIT)
def test_the_plan_is_placed_as_in_the_demo(name: str) -> None:
    demo = settings.read([EXPERIMENTS / "stage3_joint.yaml"])
    placed = [given["model"]["init_args"]["dit"]["init_args"]["plan_attention"]["timestamps"] for given in (demo, READ[name])]
    assert placed == [True, True]
