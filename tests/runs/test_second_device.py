"""Stages, their samples and `generate` on a device that is not the CPU: no operation mixes tensors of two devices, equal losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from baton_lightning.bench.resume_case import Case

ROOT = Path(__file__).parents[2]
STRATEGY = "lightning.pytorch.strategies.SingleDeviceStrategy"
ON_SECOND = ["--trainer.accelerator=second", f"--trainer.strategy={STRATEGY}", "--trainer.strategy.device=second:0"]


def run(module: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def ledger(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return [line | {"loss": float.fromhex(line["loss"])} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage2", "stage3_joint"])
def test_a_stage_and_its_clips_are_the_same_on_another_device(survival: Path, stage: str) -> None:
    case = Case(survival, stage=stage)
    case.prepare_parents(stage)
    parents = {role: f"{survival}/runs/parents/{parent}" for role, parent in case.parents(stage).items()}
    common = ["-c", f"experiments/{stage}.yaml", f"--model.init_args.parents={json.dumps(parents)}"]
    run("tests.second_device", "fit", *common, *case.words("second", 3), *ON_SECOND)
    run("baton_lightning", "fit", *common, *case.words("first", 3))
    one, other = ([line["loss"] for line in ledger(survival / "runs" / name / stage)] for name in ("first", "second"))
    assert len(one) == 3 and one == pytest.approx(other, rel=1e-3)  # attention has another kernel
    if stage == "stage3_joint":
        clips = ["--run", f"{survival}/runs/second/{stage}", "--num", "1", "--out", f"{survival}/clips-second"]
        run("tests.second_device", "generate", *clips, "--offload")
        assert len(list((survival / "clips-second").glob("*.mp4"))) == 2  # one of each tier
