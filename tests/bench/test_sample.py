"""The bench of what sampling saves: its figures, what it leaves out, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from baton_lightning.__main__ import main
from baton_lightning.bench import gpu_work, sample, sample_quality
from baton_lightning.flow.savings import Savings

SMALL = replace(gpu_work.PAPER, height=64, width=64, plan_grid=(2, 2), text_tokens=8)


@pytest.mark.slow
def test_every_figure_is_measured_and_p_acc_is_left_out_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_work, "PAPER", SMALL)
    file = tmp_path / "said.json"
    assert main(["bench", "sample", "--json", str(file), "--repetitions", "1"]) == 0
    found, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert found["headline"].keys() == {"window_layer_speedup", "cached_step_speedup"}
    assert all(f"headline.{name} {value:.4f}" in printed for name, value in found["headline"].items())
    assert "headline.p_acc_loss is left out" in printed
    assert found["step"].keys() == {"in full", "keep_projections", "one_batch", "plan_every", "guided", "both approximate"}
    assert found["operations"]["step_without_plan"] < found["operations"]["step_with_window"] < found["operations"]["step"]


def test_steps_of_a_model_that_skips_a_block_are_not_timed_in_one_batch() -> None:
    tiny = sample_quality.tiny()
    tiny.guidance.skip_block = 0
    cases = {"in full": Savings(), "one_batch": Savings(one_batch=True)}
    found = sample.steps(tiny.dit, tiny.guidance, tiny.clip, 1, cases, 1)
    assert found.keys() == {"in full"} and found["in full"]["speedup"] == 1


def test_a_loss_is_the_mean_of_the_clips_differences_with_its_error() -> None:
    found = sample_quality.compared([1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.5])
    assert found["mean"] == 0.375 and found["loss"] == 0.125 and found["num_clips"] == 4
    assert found["error"] == pytest.approx(0.2394, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "100"], "--width must be a positive multiple of 64, got 100"),
        (["--window", "-1"], "at least 0, got -1"),
        (["--guided", "0.9", "0.2"], "within [0, 1], got [0.9, 0.2]"),
        (["--plan-every", "0"], "--plan-every must be at least 1, got 0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sample", *words]) == 1
    assert message in capsys.readouterr().err
