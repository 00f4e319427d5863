"""What a user sees of a run: our lines, and warnings about the run itself; nothing that libraries say of themselves."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import pytest

from baton_lightning.bench.resume_case import Case
from baton_lightning.launch.processes import call
from baton_lightning.preflight import early_exit_code
from baton_lightning.quiet import ADVERTISING, LOGGERS, silence

PROGRESS = re.compile(r"\s*(\x1b\[A)?((Training|Validation|steps)\b.*)?(\x1b\[A)?\s*")
OURS = re.compile(
    r"[\s┌│└┐┘─┬┴┼├┤]|steps and |trained on:|PlannerPretraining:|planner gate: |resuming |skipping |changed since|finished |next: "
)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger](...)", False),
        ("GPU available: False, used: False", False),
        ("[rank: 1] Seed set to 0", False),
        ("`Trainer.fit` stopped: `max_steps=2` reached.", False),
        ("----------------------------------------\ndistributed_backend=gloo\nStarting with 2 processes", False),
        ("`Trainer.fit` stopped: No training batches.", True),
        ("Metric val/loss improved. New best score: 0.1", True),
    ],
)
def test_lines_about_the_run_are_shown_and_advertising_is_not(line, shown):
    assert ADVERTISING.filter(logging.LogRecord("x", logging.INFO, "x", 1, line, None, None)) is shown
    assert ADVERTISING.filter(logging.LogRecord("x", logging.WARNING, "x", 1, line, None, None))


def test_warnings_about_the_run_stay():
    with warnings.catch_warnings(record=True) as kept:
        warnings.simplefilter("always")
        silence()
        for message in (
            "The `srun` command is available on your system but is not used. HINT: ...",
            "Checkpoint directory runs/demo/stage1/checkpoints exists and is not empty.",
            "`isinstance(treespec, LeafSpec)` is deprecated",
            "\n      ``instantiate_classes`` was deprecated in v4.49.0 and will be removed in v5.0.0. Instead use ``instantiate``.",
            "skipped the clip 3",
        ):
            warnings.warn(message, stacklevel=1)
    assert [str(warning.message) for warning in kept] == ["skipped the clip 3"]
    assert all(ADVERTISING in logging.getLogger(name).filters for name in LOGGERS)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_and_one_that_goes_on_print_only_our_lines(survival: Path, tmp_path: Path, monkeypatch, ranks) -> None:
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("COLUMNS", "300")
    case, more = (
        Case(survival),
        [f"--trainer.strategy={'ddp' if ranks > 1 else 'auto'}", f"--trainer.devices={ranks}", "--trainer.log_every_n_steps=1"],
    )
    run = case.run(f"quiet{ranks}")
    command = ["fit", "-c", "experiments/stage1.yaml", *case.words(f"quiet{ranks}", 2), *more]
    for _ in range(2):
        output = call(command, tmp_path / "output.txt", ranks)
        ours = [line for line in re.split(r"[\r\n]+", output) if PROGRESS.fullmatch(line) or OURS.match(line)]
        foreign = [line for line in re.split(r"[\r\n]+", output) if line not in ours]
        assert not foreign, foreign
        assert early_exit_code("fit", command[1:]) == 0
        (run / "manifest.json").unlink()
