"""Runs that are killed several times and gone on with, and what the bench says of runs that differ."""

from __future__ import annotations

import argparse
import json
import re
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from baton_lightning.bench import resume
from baton_lightning.bench.resume import prove
from baton_lightning.bench.resume_case import SAVE_EVERY, Case, first_difference
from baton_lightning.runs.saved_config import LAYOUT

ROOT = Path(__file__).parents[2]
SEED = 5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero3_cpu"])
def test_a_run_killed_at_random_steps_and_resumed_twice_ends_as_one_that_was_not(survival: Path, strategy: str) -> None:
    found = prove(Case(survival, "stage1", strategy, ranks=2, steps=10, kills=2, seed=SEED, workers=1))
    assert found["first_difference"] is None
    assert [len(steps) for steps in found["kill_steps"]] == [2]
    drawn, reached = (list(chain.from_iterable(found[key])) for key in ("kill_steps", "ledger_at_kill"))
    assert all(step <= was for step, was in zip(drawn, reached, strict=True)) and any(step > SAVE_EVERY for step in drawn)


@pytest.mark.slow
def test_a_run_whose_steps_accumulate_survives_two_kills_and_is_validated_by_steps(survival: Path) -> None:
    found = prove(Case(survival, "stage1", "zero2_cpu", 2, steps=8, kills=2, seed=SEED, accumulate=2))
    assert found["first_difference"] is None
    whole = survival / "runs/stage1-zero2_cpu-2-whole/stage1"
    assert [json.loads(line)["samples"] for line in (whole / "ledger.jsonl").read_text().splitlines()] == [8] * 8
    events = EventAccumulator(str(whole))
    events.Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [7]  # once, at the last step, as Lightning counts them
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    patterns = [pattern for name in ("losses", "plans") for _, tags in LAYOUT[name].values() for pattern in tags]
    shown = {tag for tag in events.Tags()["scalars"] if any(re.match(pattern, tag) for pattern in patterns)}
    assert shown == {"val/loss", "val/r2_video", "val/r2_audio"}  # of eight steps nothing else is logged
    assert next(iter(LAYOUT)) == "losses"


@pytest.mark.slow
def test_a_run_of_adapters_resumes_from_checkpoints_without_their_base(survival: Path) -> None:
    found = prove(Case(survival, "stage3_lora", "ddp", steps=6, kills=1, seed=SEED))
    assert found["first_difference"] is None
    checkpoint = next((survival / "runs/stage3_lora-ddp-1-whole/stage3_lora/checkpoints").glob("step-*.ckpt"))
    held = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert any(".lora_B." in key for key in held) and not any(".base_layer." in key for key in held)


def finished(folder: Path, loss: str = "0x1p+0", weight: float = 1.0, lines: int = 3) -> Path:
    folder.mkdir(parents=True)
    steps = [json.dumps({"step": n, "epoch": 0, "digest": "a", "loss": loss if n == 2 else "0x0"}) + "\n" for n in range(1, lines + 1)]
    (folder / "ledger.jsonl").write_text("".join(steps))
    save_file({"a": torch.ones(2), "b": torch.tensor([0.0, weight])}, folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ({}, None),
        ({"loss": "0x1.0000000000001p+0"}, "step 2: loss is 0x1.0000000000001p+0, was 0x1p+0 in the uninterrupted run"),
        ({"lines": 2}, "the ledger has 2 lines, 3 in the uninterrupted run"),
        ({"weight": 1 + 2**-23}, "weights: b"),
    ],
)
def test_one_bit_is_a_difference_and_is_named(tmp_path: Path, other: dict, where: str | None) -> None:
    assert first_difference(finished(tmp_path / "one"), finished(tmp_path / "two", **other)) == where


def test_steps_to_be_killed_at_are_drawn_from_the_seed_and_leave_something_to_do(tmp_path: Path) -> None:
    case = Case(tmp_path, steps=9, kills=3, repeats=2, seed=1, experiments=ROOT / "experiments")
    again = Case(tmp_path, steps=9, kills=3, repeats=2, seed=2, experiments=ROOT / "experiments")
    assert case.kill_steps == case.kill_steps != again.kill_steps
    assert [len(set(steps)) for steps in case.kill_steps] == [3, 3]
    assert all(1 <= step <= 7 for steps in case.kill_steps for step in steps) and case.kill_steps[0] != case.kill_steps[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kills": 0}, "--kills must be"),
        ({"ranks": 0}, "--ranks"),
        ({"repeats": 0}, "--repeats"),
        ({"stage": "stage9"}, "stage9.yaml"),
        ({"strategy": "fsdp"}, "fsdp.yaml"),
    ],
)
def test_a_case_that_cannot_be_is_refused(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Case(tmp_path, **{"experiments": ROOT / "experiments"} | wrong)


@pytest.mark.parametrize("difference", [None, "weights: b"])
def test_the_verb_writes_what_it_found_and_fails_on_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], difference: str | None
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Case, "prepare", lambda case: None)
    monkeypatch.setattr(resume, "call", lambda argv, output, ranks: "")
    monkeypatch.setattr(resume, "kill_at", lambda argv, output, ranks, ledger, step: step)
    monkeypatch.setattr(resume, "first_difference", lambda whole, killed: difference)
    parser = argparse.ArgumentParser()
    resume.add_arguments(parser)
    options = parser.parse_args(
        ["--stage", "stage1", "stage2", "--ranks", "1", "2", "--kills", "2", "--work", str(tmp_path), "--json", f"{tmp_path}/f.json"]
    )
    assert resume.main(options) == (difference is not None)
    found = json.loads((tmp_path / "f.json").read_text())
    first = None if difference is None else "stage1, ddp, ranks: 1: weights: b"
    assert found["headline"] == {"identical": difference is None, "first_difference": first}
    assert [(case["stage"], case["ranks"]) for case in found["cases"]] == [("stage1", 1), ("stage1", 2), ("stage2", 1), ("stage2", 2)]
    assert {"command", "versions"} <= found.keys() and {"kill_steps", "seed", "trained_by"} <= found["cases"][0].keys()
    assert ("DIFFERENT" in capsys.readouterr().out) == (difference is not None)
