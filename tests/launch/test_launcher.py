"""Progress of steps that run one after another: counts come from their logs, and one figure tells the whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from baton_lightning.launch.demo import plan_steps
from baton_lightning.launch.launcher import Launcher, Step, last_count, time_left


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("steps:  44%|####| 175/400 [01:00<02:00, train/loss=0.8]\rValidation DataLoader 0: 1/8 [00:01<", (175, 400)),
        ("Validation DataLoader 0:  12%| 1/8 [00:01<", None),
        ("Predicting DataLoader 2: 3/4 [00:02", (3, 4)),
        ("clips: 1/9\rclips: 2/9\r", (2, 9)),
        ("resuming", None),
    ],
)
def test_steps_of_training_are_counted_and_not_those_of_validation(tmp_path: Path, text: str, count: tuple[int, int] | None) -> None:
    (tmp_path / "a.log").write_text(text)
    assert last_count(tmp_path / "a.log") == count
    assert last_count(tmp_path / "none.log") is None


def test_the_share_of_the_whole_is_that_of_the_weights(tmp_path: Path) -> None:
    running = subprocess.Popen(["true"])
    steps = [
        Step("one", [], tmp_path / "1", weight=30),
        Step("two", [], tmp_path / "2", weight=60),
        Step("three", [], tmp_path / "3", weight=10),
    ]
    launcher = Launcher(steps, tmp_path / "logs")
    (tmp_path / "logs/two.log").write_text("steps: 50/100")
    assert launcher.share(set()) == 0.0  # the log is of an earlier start
    launcher.steps["two"].process = running
    assert launcher.share({"one"}) == pytest.approx(0.6)
    assert launcher.share({"one", "two", "three"}) == 1.0
    running.wait()


def test_time_left_follows_the_rate_of_this_start() -> None:
    assert time_left(0.6, 0.5, 60) == "about 4 min left"  # a tenth in a minute, four to go
    assert time_left(0.51, 0.5, 60) == "" and time_left(1.0, 0.5, 60) == ""


def test_every_step_of_the_demo_has_a_weight_of_its_own(tmp_path: Path) -> None:
    steps = plan_steps(tmp_path, tmp_path, tmp_path, clips=1)
    assert all(step.weight > 1 for step in steps) and max(steps, key=lambda step: step.weight).name == "stage3_adapt"
