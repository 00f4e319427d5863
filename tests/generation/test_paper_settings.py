"""A joint run as the paper trains it, in small: a bfloat16 Qwen3, ZeRO-3 on two ranks in bf16-mixed, with samples; then clips from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from baton_lightning.__main__ import main
from baton_lightning.launch.processes import call
from baton_lightning.media import read_mp4

ROOT = Path(__file__).parents[2]
ADAMW = ["--model.init_args.optimizer=torch.optim.AdamW"]
SHORT = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.scheduler.init_args.warmup_steps=1"]


@pytest.mark.slow
def test_a_zero3_run_in_bfloat16_leaves_samples_and_makes_clips_wherever_it_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], qwen_in: Callable[[Path], str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["shards", "world", f"{tmp_path}/data", "--train", "8", "--val", "4", "--test", "1", "--workers", "0"]) == 0
    paths = [f"--data.init_args.root={tmp_path}/data", f"--run.root={tmp_path}/runs", "--run.experiment=e"]
    assert main(["predict", "-c", "experiments/encode.yaml", *paths]) == 0

    def llm(planner: str, dtype: str) -> list[str]:
        name = f"{planner}.init_args.llm"
        return [
            name,
            "baton_lightning.frozen.llm.PretrainedLLM",
            f"{name}.init_args.name_or_path={tmp_path}/qwen",
            f"{name}.init_args.dtype={dtype}",
        ]

    qwen_in(tmp_path / "qwen")
    small = [*paths, *SHORT, *ADAMW, "--data.init_args.batch_size=4"]
    assert main(["fit", "-c", "experiments/stage1.yaml", *small, *llm("--model.init_args.planner", "float32")]) == 0
    planner = "--model.init_args.plan.init_args.planner"
    joint = [*llm(planner, "bfloat16"), f"{planner}.init_args.readout=baton_lightning.models.sem_mlp.SemHeads"]
    joint += [f"--model.init_args.parents={{'planner': '{tmp_path}/runs/e/stage1'}}", "--model.init_args.sampler.init_args.steps=2"]
    joint += ["--trainer.precision=bf16-mixed", "-c", "experiments/strategy/zero3_cpu.yaml"]
    shutil.rmtree(tmp_path / "qwen")  # the planner's run keeps what is needed of it
    call(["fit", "-c", "experiments/stage3_joint.yaml", *small, *joint], tmp_path / "output.txt", ranks=2)
    samples = sorted((tmp_path / "runs/e/stage3_joint/samples/step-000002").glob("*.mp4"))
    assert len(samples) == 2 and read_mp4(samples[0]).frames.shape == (25, 32, 32, 3)

    (tmp_path / "runs").rename(tmp_path / "archive")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = "../archive/e/stage3_joint"
    assert main(["generate", "--run", run, "--num", "1", "--out", "clips", "--dtype", "bfloat16", "--device", "cpu"]) == 0
    assert "wrote 2 clips" in capsys.readouterr().out
    assert main(["generate", "--run", run, "--num", "1", "--out", "last", "--ckpt", f"{run}/checkpoints/last.ckpt", "--device", "cpu"]) == 0
    assert "NOT the final weights" in capsys.readouterr().err
    assert main(["generate", "--run", run, "--num", "1", "--out", "whole", "--device", "cpu"]) == 0
    for clip in Path("whole").glob("*.mp4"):
        assert clip.read_bytes() == (Path("last") / clip.name).read_bytes()
