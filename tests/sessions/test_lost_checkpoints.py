"""One damaged, deleted or misdated checkpoint never costs a run, and none is trained again in silence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from baton_lightning.runs import checkpoints
from baton_lightning.sessions.termination import resume_message
from tests.sessions.interrupted_runs import Runs


def steps(runs: Runs) -> list[int]:
    return [json.loads(line)["step"] for line in (runs.folder / "ledger.jsonl").read_text().splitlines()]


def flip(runs: Runs, name: str) -> None:
    """Changes one byte."""
    file = runs.folder / "checkpoints" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def later(cut: Runs) -> Runs:
    """The run, cut off again after step 5: it has saved steps 2 and 4."""
    cut.fit(cut=5)
    assert sorted(path.name for path in (cut.folder / "checkpoints").glob("step-?.ckpt")) == ["step-2.ckpt", "step-4.ckpt"]
    return cut


def test_one_flipped_byte_costs_the_steps_since_the_checkpoint_before(later: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    flip(later, "step-4.ckpt")
    capsys.readouterr()
    later.fit()
    out, err = capsys.readouterr()
    assert "step-4.ckpt differs from its manifest" in err and "kept as step-4.ckpt.damaged and was not loaded" in err
    assert "checkpoints/step-2.ckpt, which repeats 2 steps" in out
    assert len(later.rates) == 4 and steps(later) == [1, 2, 3, 4, 5, 6] and [step for step, _ in later.recorded()] == [0, 2]
    assert os.readlink(later.folder / "checkpoints/last.ckpt") == "step-6.ckpt"


def test_settings_are_compared_with_those_that_made_the_checkpoint_before(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model.init_args.optimizer.init_args.lr=0.5",)
    cut.fit("--resume=changed", *words, cut=5)
    flip(cut, "step-4.ckpt")
    cut.fit(*words, code=1)
    assert "but these changed: model.init_args.optimizer.init_args.lr: 0.1 -> 0.5" in capsys.readouterr().err
    cut.fit("--resume=changed", *words)
    assert cut.rates == [0.5] * 4


def test_a_damaged_checkpoint_without_one_before_names_the_way_out(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    flip(cut, "step-2.ckpt")
    cut.fit(code=1)
    assert "there is no earlier checkpoint; restore it, or start again with --resume never" in capsys.readouterr().err
    cut.fit("--resume=never")
    assert steps(cut) == [1, 2, 3, 4, 5, 6]


def test_a_manifest_that_was_changed_costs_no_more_than_its_checkpoint(later: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    (later.folder / "checkpoints/step-4.ckpt.json").write_text("{")
    later.fit()
    assert "skipping" in capsys.readouterr().err and len(later.rates) == 4


def test_deleted_checkpoints_are_no_fresh_start_in_silence(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    before = (cut.folder / "ledger.jsonl").read_bytes()
    shutil.rmtree(cut.folder / "checkpoints")
    cut.fit(code=1)
    output = capsys.readouterr().err
    assert "ledger.jsonl has 3 steps" in output and "of step 2, is missing" in output and "--resume never" in output
    assert (cut.folder / "ledger.jsonl").read_bytes() == before
    cut.fit("--resume=never")
    assert "kept as ledger.1.jsonl" in capsys.readouterr().out
    assert (cut.folder / "ledger.1.jsonl").read_bytes() == before and steps(cut) == [1, 2, 3, 4, 5, 6]


def test_a_stopped_run_says_from_which_step_it_resumes_and_how_many_it_loses(later: Runs, tmp_path: Path) -> None:
    def message(folder: Path, step: int) -> str:
        return resume_message(SimpleNamespace(global_step=step, checkpoint_callbacks=[ModelCheckpoint(folder)]))  # type: ignore[arg-type]

    for step, lost in ((4, "no step is lost"), (5, "1 step is lost"), (9, "5 steps are lost")):
        assert f"checkpoints/step-4.ckpt of step 4; {lost}" in message(later.folder / "checkpoints", step)
    assert message(tmp_path, 9) == "no checkpoint was saved: 9 steps are lost; repeat the command to start from scratch"


def test_a_run_that_was_killed_before_it_saved_begins_again_and_says_so(cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    cut.fit(cut=1, stage="young")
    capsys.readouterr()
    cut.fit(stage="young")
    assert "no checkpoint yet: its 1 steps are repeated" in capsys.readouterr().out and len(cut.rates) == 6


@pytest.mark.parametrize("ahead", [-1e6, 1e6], ids=["behind", "ahead"])
def test_a_clock_that_was_set_does_not_choose_an_older_checkpoint(later: Runs, ahead: float, capsys: pytest.CaptureFixture[str]) -> None:
    victim = "step-4.ckpt" if ahead < 0 else "step-2.ckpt"
    path = checkpoints.manifest_of(later.folder / "checkpoints" / victim)
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"saved": described["saved"] + ahead}))
    later.fit()
    assert "checkpoints/step-4.ckpt, 1 steps before the last one in its ledger" in capsys.readouterr().out and len(later.rates) == 2
