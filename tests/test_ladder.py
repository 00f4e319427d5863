"""The ladder of sizes: every rung is a chain of stages that fit each other, and has the sizes that its page states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from baton_lightning.estimate.cli import checkpoints
from baton_lightning.estimate.parameters import build, measure
from baton_lightning.launch.stage import Stage
from baton_lightning.launch.status import read_chain

ROOT = Path(__file__).parents[1]
RUNGS = ("nano", "nano_longer", "micro", "small", "medium")
ROW = re.compile(r"^\| (\w+) \| `([\w/.]+)` \| ([\d,]+) \| ([\d,]+) \|", re.MULTILINE)
STATED = {(rung, name): (all_, trained) for rung, name, all_, trained in ROW.findall((ROOT / "docs/ladder.md").read_text())}


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def stages(rung: str) -> dict[str, Stage]:
    return read_chain(Path(f"experiments/ladder/{rung}.yaml"), [])


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_is_a_chain_whose_stages_share_geometry_data_and_folder_and_say_what_they_need(rung):
    found = stages(rung)
    shared = [(s.settings["clip"], s.settings["data"]["init_args"]["root"], s.folder.parent) for s in found.values()]
    assert all(one == shared[0] for one in shared)
    head = (ROOT / f"experiments/ladder/{rung}.yaml").read_text()
    assert all(words in head for words in ("# Card: ", "(`estimate`", "# Time: "))
    assert {(rung, str(s.config.relative_to("experiments/ladder") if rung != "nano" else s.config.relative_to("experiments")))
            for s in found.values() if s.verb == "fit"} == {key for key in STATED if key[0] == rung}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("rung", RUNGS)
def test_every_stage_of_a_rung_builds_on_the_meta_device_with_the_sizes_of_the_page(rung):
    for name, stage in stages(rung).items():
        if stage.verb == "fit":
            model, _ = build(["-c", str(stage.config)])
            parts = list(measure(model))
            assert all(parameter.is_meta for parameter in model.parameters()), name
            found = tuple(f"{sum(getattr(part, field) for part in parts):,}" for field in ("total", "trained"))
            key = str(stage.config.relative_to("experiments/ladder" if rung != "nano" else "experiments"))
            assert found == STATED[rung, key], name
            assert checkpoints(model) or rung in ("nano", "nano_longer", "micro"), name
