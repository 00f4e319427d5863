"""A run goes on with the settings that made its checkpoint; others are refused, or recorded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from baton_lightning.runs import checkpoints, manifest
from baton_lightning.sessions import compared, segments
from tests.sessions.interrupted_runs import SCHEDULE, Runs

REFUSED = [
    {
        "--model.init_args.optimizer.init_args.lr=0.5": "optimizer.init_args.lr: 0.1 -> 0.5",
        "--model.init_args.dropout=0.5": "model.init_args.dropout: 0.0 -> 0.5",
        "--data.init_args.root={base}/other": "content of the data: {base}/set (",
        "--trainer.precision=bf16-mixed": "trainer.precision: None -> bf16-mixed",
        "--trainer.strategy=ddp": "trainer.strategy: auto -> ddp",
    },
    {
        "--data.init_args.batch_size=2": "data.init_args.batch_size: 4 -> 2",
        "--trainer.gradient_clip_val=2.0": "trainer.gradient_clip_val: 1.0 -> 2.0",
        "--trainer.max_steps=5": "trainer.max_steps: 6 -> 5",
        "--trainer.callbacks+=callbacks.ema.EMA": "trainer.callbacks.callbacks.ema.EMA",
    },
    {
        "--model.init_args.parents={{planner: {base}/parents/two}}": "parents/one (oneoneoneone) -> {base}/parents/two (twotwotwotwo)",
        "--seed_everything=7": "seed_everything: 0 -> 7",
        "--resume=changed": "because settings of its content changed",
    },
]


ROOMS = ("runs", "construction")


@pytest.mark.parametrize("changes", REFUSED, ids=("result", "trainer", "fixed"))
def test_changes_that_make_another_result_are_refused_in_one_line_before_networks_are_built(
    cut: Runs, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.setenv("NO_NETWORKS", "1")
    before = {file.name: file.read_bytes() for file in cut.folder.iterdir() if file.is_file()}
    cut.fit(*(word.format(base=base) for word in changes), code=1)
    output = [line for line in capsys.readouterr().err.splitlines() if "step-2.ckpt" in line]
    assert len(output) == 1 and not [values for values in changes.values() if values.format(base=base) not in output[0]]
    assert {"config.yaml", segments.NAME} <= before.keys()
    assert {file.name: file.read_bytes() for file in cut.folder.iterdir() if file.is_file()} == before


def test_what_only_watches_saves_or_lies_elsewhere_may_change(cut: Runs, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(base / "set", cut.root.parent / "moved")
    free = [
        "--trainer.max_steps=7", "--trainer.log_every_n_steps=3", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1",
        "--data.init_args.num_workers=1", f"--data.init_args.root={cut.root.parent}/moved", "--run.checkpoint_every=3",
        f"--model.init_args.parents={{planner: {base}/parents/moved}}", "--trainer.callbacks+=callbacks.step_progress.StepProgress",
        "--trainer.enable_progress_bar=true",
    ]  # fmt: skip
    cut.fit(*free)
    assert f"resuming {cut.folder}/ from" in capsys.readouterr().out
    (_, first), (step, changed) = cut.recorded()
    assert first == [] and step == 2 and "trainer.max_steps: 6 -> 7" in changed
    assert manifest.read(cut.folder)["parents"]["planner"]["run"] == f"{base}/parents/one"


def test_changed_goes_on_with_the_new_values_and_the_manifest_names_the_step(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model.init_args.optimizer.init_args.lr=0.5", "--model.init_args.dropout=0.5")
    cut.fit("--resume=changed", *words, cut=5)
    assert "changed since" in capsys.readouterr().out and cut.rates[0] == 0.5
    cut.fit(*words)
    lines = ["model.init_args.dropout: 0.0 -> 0.5", "model.init_args.optimizer.init_args.lr: 0.1 -> 0.5"]
    (first, none), (second, changed), (third, nothing) = cut.recorded()
    assert (first, second, third) == (0, 2, 4) and none == nothing == [] and [line for line in changed if "init_args" in line][-2:] == lines
    assert cut.rates == [0.5] * 2


def test_a_session_that_left_no_checkpoint_did_not_make_one(cut: Runs) -> None:
    cut.fit("--resume=changed", "--model.init_args.dropout=0.5", cut=3)
    cut.fit()
    assert [step for step, _ in cut.recorded()] == [0, 2] and "dropout" not in str(cut.recorded())


def test_more_steps_change_a_schedule_that_follows_them(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    (cut.root.parent / "schedule.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"scheduler": SCHEDULE}}}))
    follows = ("-c", f"{cut.root.parent}/schedule.yaml")
    cut.fit(*follows, cut=3, stage="curve")
    cut.fit(*follows, "--trainer.max_steps=12", stage="curve", code=1)
    assert "scheduler.init_args.total_steps: 6 -> 12" in capsys.readouterr().err
    cut.fit(*follows, "--trainer.max_steps=12", "--resume=changed", stage="curve")
    assert len(cut.rates) == 10 and cut.rates[1] == pytest.approx(0.1 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 12)).item()), 1e-4)


def test_a_run_that_began_from_a_given_checkpoint_goes_on_from_its_own(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    given = f"--ckpt_path={cut.folder}/checkpoints/last.ckpt"
    cut.fit(given, cut=5, stage="branch")
    capsys.readouterr()
    cut.fit(given, stage="branch")
    assert "branch/checkpoints/step-4.ckpt" in capsys.readouterr().out
    assert [step for step, _ in cut.recorded("branch")] == [0, 2, 4]
    cut.fit(given, "--resume=never", stage="branch")
    assert [step for step, _ in cut.recorded("branch")] == [0, 2] and len(cut.rates) == 4


def test_a_run_that_begins_again_does_not_go_on_from_what_was_there(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model.init_args.dropout=0.5",)
    cut.fit(*words, "--resume=never", cut=1)
    cut.fit(*words)
    assert "step-2.ckpt: it was saved before this run started" in capsys.readouterr().err
    assert [step for step, _ in cut.recorded()] == [0] and len(cut.rates) == 6


def test_another_version_is_told_and_recorded(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    known = segments.read(cut.folder)
    known[0]["versions"]["torch"] = "1.0"
    (cut.folder / segments.NAME).write_text(json.dumps(known))
    cut.fit()
    assert f"torch: 1.0 -> {version('torch')}" in capsys.readouterr().out
    assert cut.recorded()[1][1][-1].startswith("torch: 1.0")


@pytest.mark.parametrize("content", ["[", "[]", "{}", '[{"step": 0}]', "[1]"])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / segments.NAME).write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        segments.read(tmp_path)


def test_a_run_without_a_record_says_that_nothing_was_compared(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    (cut.folder / segments.NAME).unlink()
    cut.fit("--model.init_args.dropout=0.5")
    assert "they were not compared" in capsys.readouterr().out
    assert checkpoints.newest(cut.folder / "checkpoints")[0] is not None


def test_every_callback_that_is_said_to_watch_exists() -> None:
    for name in compared.WATCHING:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(("was", "now", "other"), [(6, 7, False), (7, 6, True), (6, -1, False), (-1, 6, True)])
def test_steps_may_only_grow(was: int, now: int, other: bool) -> None:
    assert compared.makes_the_result("trainer.max_steps", was, now) == other


def test_a_class_that_was_renamed_is_no_change_of_settings() -> None:
    was, now = ({"trainer": {"strategy": {"class_path": f"baton_lightning.{room}.deepspeed_cpu.CPUDeepSpeedStrategy"}}} for room in ROOMS)
    assert compared.changes(was, now) == {}


def test_a_rate_may_change_and_a_part_with_a_rate_of_its_own_may_not() -> None:
    assert compared.is_fixed("model.init_args.rates.planner.readout", compared.NONE, 0.1)
    assert not compared.is_fixed("model.init_args.rates.planner.readout", 0.2, 0.1)


def test_a_setting_that_an_older_version_lacks_is_a_change_unless_it_is_off() -> None:
    was = {"data": {"init_args": {"batch_size": 4}}, "clip": {"seconds": 2.0}}
    now = {"data": {"init_args": {"batch_size": 4, "tokens": None}}, "clip": {"seconds": 2.0, "geometries": []}}
    assert compared.changes(was, now) == {}
    on = {"data": {"init_args": {"batch_size": 4, "tokens": 9}}, "clip": {"seconds": 2.0, "geometries": []}}
    assert compared.changes(was, on) == {"data.init_args.tokens": ("none", 9)}
    assert compared.changes(now, was) == {"clip.geometries": ([], "none"), "data.init_args.tokens": (None, "none")}
