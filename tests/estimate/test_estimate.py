"""`estimate` and the experiments at the paper's size: counts are exact, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.estimate.cli import checkpoints, kept, weigh
from baton_lightning.estimate.footprint import Footprint
from baton_lightning.estimate.parameters import backbone, build, measure
from baton_lightning.estimate.sampling import RELEASED, samples
from baton_lightning.estimate.tables import kept_line
from baton_lightning.frozen.activation_checkpointing import set_checkpointing
from baton_lightning.frozen.llm import TinyLLM

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def stage(name: str, *options: str, both: bool = False):
    built = build(["-c", f"experiments/paper/{name}.yaml", *options])
    return built if both else built[0]


def test_at_the_paper_s_size_the_planner_is_qwen3_8b_with_towers():
    model = stage("stage1")
    counts = {part.name: part.total for part in measure(model)}
    assert counts["language model"] == 7_568_405_504
    assert sum(counts.values()) == sum(p.numel() for p in model.planner.parameters()) == 8_011_414_144
    assert all(p.is_meta and p.requires_grad for p in model.planner.parameters())


def test_at_the_paper_s_size_the_transformer_is_ovi_and_plan_layers():
    model = stage("stage2")
    counts = {part.name: part.total for part in measure(model)}
    assert backbone(model.dit) == (11_660_753_108, 1_133_383_680)
    assert (counts["video branch"], counts["audio branch"]) == (5_566_479_552, 6_094_273_556)
    assert counts["plan attention, video"] == counts["plan attention, audio"] > 0
    assert sum(counts.values()) == sum(p.numel() for p in model.dit.parameters())


def test_joint_training_freezes_the_planner_and_trains_the_transformer():
    parts = {part.name: part for part in measure(stage("stage3"))}
    assert parts["language model"].trained == parts["towers"].trained == 0 < parts["towers"].total
    assert parts["video branch"].trained == parts["video branch"].total == 5_566_479_552


@pytest.mark.parametrize(("grid", "num_tokens"), [(27, 729), (13, 169), (9, 81)])
def test_a_coarser_plan_changes_queries_and_nothing_else(grid, num_tokens):
    model = stage("stage1", f"--clip.plan_grid=[{grid},{grid}]")
    assert model.planner.readout.video_tower.queries.shape == (30 * num_tokens, 4096)
    assert sum(p.numel() for p in model.planner.language.llm.parameters()) == 7_568_405_504


def test_ten_seconds_at_the_full_grid_do_not_fit_qwen_s_positions():
    with pytest.raises(ValueError, match=r"prompt 0 \+ video 43740 \(60 x 27 x 27\) \+ audio 400 \+ 4 marks = 44144 positions.*40960"):
        stage("stage1", "--clip.seconds=10", "--clip.audio_latents=314")
    assert stage("stage1", "--clip.seconds=10", "--clip.audio_latents=314", "--clip.plan_grid=[13,13]").clip.num_video_planned == 60 * 169


def test_the_verb_fits_a_terminal_of_80_columns_and_says_what_each_column_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    small = ["--model.init_args.dit.init_args.depth=2", "--trainer.callbacks=null"]
    assert main(["estimate", "-c", "experiments/paper/stage2.yaml", "--gpus", "4", "--clips", "1000", *small]) == 0
    printed = capsys.readouterr().out
    out = " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    for words in ("strategy ┃ states ┃ backward ┃ step ┃ sample ┃ host ┃ fits on", "DDP", "ZeRO-3", "offload", "2 clips per GPU", "141 GB"):
        assert words in out
    assert "1 kept and one being written" in out
    for words in ("no clips are sampled", "if recomputed", "One pass over 1,000 clips", "of a step, 8 clips", "8 bytes of the optimiser"):
        assert words in out


def test_the_disk_has_to_hold_the_checkpoints_that_are_kept_and_one_more():
    assert kept_line(3e9, 2) == "a checkpoint of DeepSpeed takes 3 GB; 2 kept and one being written: 9 GB"
    assert kept_line(3e9, -1).endswith("all are kept")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("on", [True, False])
def test_whether_a_planner_recomputes_is_asked_of_transformers_without_a_warning(on):
    llm = TinyLLM(width=16, depth=1, num_heads=2, num_kv_heads=1)
    set_checkpointing(llm.model, on)
    assert checkpoints(SimpleNamespace(planner=SimpleNamespace(language=SimpleNamespace(llm=llm)))) is on


def test_an_average_and_samples_are_read_from_the_experiment(monkeypatch):
    saver = "{class_path: baton_lightning.runs.saving.AtomicCheckpoint, init_args: {save_top_k: 2}}"
    sampler = "{class_path: callbacks.sample_logger.SampleLogger, init_args: {num_samples: 3}}"
    callbacks = f"[{{class_path: callbacks.ema.EMA}}, {sampler}, {saver}]"
    model, settings = stage("stage2", "--model.init_args.dit.init_args.depth=1", f"--trainer.callbacks={callbacks}", both=True)
    assert samples(settings.trainer.callbacks) == 3 and kept(settings) == 2
    load = weigh(model, settings, list(measure(model)), Footprint(1, 1), 0)
    assert load.average and load.low and load.kept == pytest.approx(12, abs=0.01)
    assert load.trained == sum(p.numel() for p in model.parameters()) and load.frozen == 0


def test_an_experiment_that_trains_nothing_is_refused(capsys):
    assert main(["estimate", "-c", "experiments/encode.yaml"]) == 1
    assert "needs a training stage" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--gpus", "0"), ("--tflops", "-1"), ("--mfu", "0"), ("--clips", "-1")])
def test_a_number_that_makes_no_sense_is_refused(capsys, option, value):
    assert main(["estimate", "-c", "experiments/stage1.yaml", f"{option}={value}"]) == 1
    assert f"{option} must be positive" in capsys.readouterr().err


def test_a_misspelt_key_is_named(capsys):
    assert main(["estimate", "-c", "experiments/stage1.yaml", "--clip.secnds", "3"]) == 1
    assert "clip.seconds" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "number"), [("WanVAE", 704_688_668), ("UMT5", 5_680_910_336), ("MMAudio16k", 283_856_691)])
def test_released_networks_of_samples_have_their_published_sizes(name, number):
    with torch.device("meta"):
        assert sum(p.numel() for p in RELEASED[name]().parameters()) == number


def test_each_geometry_is_shown_and_the_largest_steps_are_weighed(capsys):
    sizes = "[{height: 32, width: 48, seconds: 2}, {height: 32, width: 32, seconds: 1}]"
    tokens = ("--data.init_args.batch_size=null", "--data.init_args.tokens=1000", "--data.init_args.multiple_of=2")
    assert main(["estimate", "-c", "experiments/stage3_adapt.yaml", f"--clip.geometries={sizes}", *tokens]) == 0
    shown = capsys.readouterr().out
    for title, clips in (("2 s, 32 x 32 at 12 fps", 4), ("2 s, 48 x 32 at 12 fps", 4), ("1 s, 32 x 32 at 12 fps", 10)):
        assert f"of a step, {clips} clips" in shown.partition(title)[2].partition("at 12 fps")[0]
    assert "those of 1 s" not in shown and "Memory and time below are those of 32x32x1s" in shown
    assert "4 clips per GPU" not in shown and "10 clips per GPU" in shown
