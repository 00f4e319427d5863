"""A finished run as a folder a component: a parent as good as the run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over
from baton_lightning.frozen.llm import PretrainedLLM, TinyLLM
from baton_lightning.models.planner import VAPlanner
from baton_lightning.runs import manifest

CLIP = ClipSpec()
WORDS = "a red circle jumps then thump".split()


@pytest.fixture
def llm(tmp_path):
    tiny = TinyLLM(width=32, depth=2, vocabulary=WORDS)
    tiny.model.save_pretrained(tmp_path / "llm")
    tiny.tokenizer.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


@pytest.fixture
def run(tmp_path, llm):
    """A planner with trained adapters, as a stage leaves it."""
    settings = {"name_or_path": str(llm), "lora_rank": 4}
    planner = VAPlanner(CLIP, partial(PretrainedLLM, **settings))
    for name, parameter in planner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    folder = tmp_path / "stage1"
    folder.mkdir()
    save_file({f"planner.{k}": v.contiguous() for k, v in planner.state_dict().items()}, folder / manifest.WEIGHTS)
    node = {
        "class_path": "baton_lightning.models.planner.VAPlanner",
        "init_args": {"llm": {"class_path": "baton_lightning.frozen.llm.PretrainedLLM", "init_args": settings}},
    }
    described = manifest.describe(
        stage="PlannerPretraining", clip=CLIP, parents={}, config={"model": {"init_args": {"planner": node}}}, data="d4t4", seed=3,
        metrics={"val/loss": 0.25}, seconds=1.0, weights=folder / manifest.WEIGHTS,
    )  # fmt: skip
    (folder / manifest.NAME).write_text(json.dumps(described))
    return folder, planner, settings


@pytest.mark.parametrize("shards", [(), ("--shard-size", "0.00005")])
def test_an_export_hands_on_what_the_run_hands_on(run, tmp_path, shards):
    folder, planner, settings = run
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), *shards]) == 0
    assert (tmp_path / "out/planner/model.safetensors.index.json").exists() == bool(shards)
    fresh = VAPlanner(CLIP, partial(PretrainedLLM, **settings))
    report = hand_over(fresh, tmp_path / "out", source="planner", clip=CLIP)
    assert not report.fresh and not report.dropped
    assert all(torch.equal(a, b) for a, b in zip(planner.state_dict().values(), fresh.state_dict().values(), strict=True))


def test_peft_itself_loads_the_adapter(run, llm, tmp_path):
    from peft import PeftModel
    from transformers import AutoModel

    folder, planner, _ = run
    main(["export", str(folder), "--out", str(tmp_path / "out")])
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(llm), str(tmp_path / "out/adapter"))
    ids = torch.tensor([[1, 2, 3, 4]])
    ours = planner.language.llm
    torch.testing.assert_close(theirs(input_ids=ids).last_hidden_state, ours(ours.embed(ids)))
    bare = AutoModel.from_pretrained(llm)(input_ids=ids).last_hidden_state
    assert not torch.allclose(bare, ours(ours.embed(ids)))


def test_settings_card_and_manifest_say_where_it_comes_from(run, tmp_path):
    folder = run[0]
    main(["export", str(folder), "--out", str(tmp_path / "out")])
    config = json.loads((tmp_path / "out/planner/config.json").read_text())
    assert config["class_path"].endswith("VAPlanner") and config["clip"] == CLIP.to_dict()
    card = (tmp_path / "out/README.md").read_text()
    assert all(
        text in card for text in ("PlannerPretraining", "d4t4", "val/loss", "Qwen3: Apache-2.0", manifest.read(folder)["weights_sha256"])
    )
    assert manifest.require(tmp_path / "out", CLIP)["exported_from"] == manifest.read(folder)["weights_sha256"]


def test_an_unfinished_or_changed_run_is_not_exported(run, tmp_path, capsys):
    folder = run[0]
    save_file({k: v + 1 for k, v in load_file(folder / manifest.WEIGHTS).items()}, folder / manifest.WEIGHTS)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "changed after the run" in capsys.readouterr().err
    (folder / manifest.NAME).unlink()
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "not finished" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_planner_is_no_ovi(run, tmp_path, capsys):
    assert main(["export", str(run[0]), "--out", str(tmp_path / "out"), "--format", "ovi"]) == 1
    assert "needs a run with a transformer" in capsys.readouterr().err


def test_a_folder_that_is_there_is_not_touched(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    Path(tmp_path / "out/mine.txt").write_text("mine")
    assert main(["export", str(run[0]), "--out", str(tmp_path / "out")]) == 1
    assert "exists" in capsys.readouterr().err and (tmp_path / "out/mine.txt").read_text() == "mine"
