"""A real SLURM: an array of three, one of them requeued amid its steps, leaves what three plain runs leave. Skipped where there is none."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from baton_lightning.__main__ import main

ROOT = Path(__file__).parents[2]
STEPS = 60
SMALL = [
    f"--trainer.max_steps={STEPS}",
    f"--trainer.val_check_interval={STEPS}",
    "--trainer.accelerator=cpu",
    "--model.init_args.scheduler.init_args.warmup_steps=1",
    "--data.init_args.batch_size=4",
]


def unreachable() -> str:
    """Why jobs cannot be submitted from here; empty if they can."""
    if shutil.which("sbatch") is None:
        return "there is no sbatch on the PATH"
    told = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return "" if "is UP" in told.stdout else f"no SLURM controller answers: {(told.stdout + told.stderr).strip()}"


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(unreachable()), reason=unreachable())]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with its cache, and three plain runs."""
    folder = tmp_path_factory.mktemp("slurm")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    patch.setenv("PYTHONPATH", str(ROOT))
    assert main(["shards", "world", f"{folder}/data", "--train", "16", "--val", "4", "--test", "2", "--workers", "0"]) == 0
    assert main(["predict", "-c", "experiments/encode.yaml", f"--data.init_args.root={folder}/data", f"--run.root={folder}"]) == 0
    yield folder
    patch.undo()


def words(base: Path) -> list[str]:
    return ["-c", "experiments/stage1.yaml", f"--run.root={base}", f"--data.init_args.root={base}/data", *SMALL]


def wait(job: str, seconds: float = 400) -> None:
    """Until no task of a job is in the queue."""
    deadline = time.monotonic() + seconds
    while subprocess.run(["squeue", "-h", "-j", job, "-t", "PD,R,CG,CF"], capture_output=True, text=True).stdout.strip():
        assert time.monotonic() < deadline, subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
        time.sleep(1)


def test_an_array_whose_middle_task_is_requeued_ends_as_three_plain_runs(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        assert main(["fit", *words(base), f"--seed_everything={seed}", f"--run.experiment=plain{seed}"]) == 0
    capsys.readouterr()
    assert main(["slurm", "submit", *words(base), "--grid", "seed_everything=0,1,2", "--time", "00:30:00"]) == 0
    told = capsys.readouterr().out
    job = re.search(r"submitted (\d+): ", told)[1]
    runs = [base / f"demo-seed_everything={seed}/stage1" for seed in range(3)]
    deadline = time.monotonic() + 200
    while not (runs[1] / "ledger.jsonl").exists() or (runs[1] / "ledger.jsonl").read_bytes().count(b"\n") < STEPS // 4:
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=USR1", f"{job}_1"], check=True)
    wait(job)
    logs = [(base / f"logs/demo-stage1-{job}_{task}.out").read_text() for task in range(3)]
    assert re.search(rf"step (\d+) is saved in .*; requeued {job}_1", logs[1]) and f"resuming {runs[1]}/ from" in logs[1], logs[1]
    assert "requeued" not in logs[0] + logs[2] and all("finished " in log for log in logs)
    for seed, run in enumerate(runs):
        for name in ("ledger.jsonl", "weights.safetensors"):
            assert (run / name).read_bytes() == (base / f"plain{seed}/stage1" / name).read_bytes(), f"{name} of seed {seed}"
    assert len({(run / "ledger.jsonl").read_bytes() for run in runs}) == 3


def test_a_chain_of_jobs_runs_through(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [word.replace(str(STEPS), "3") for word in SMALL]
    roots = [f"--run.root={base}", "--run.experiment=chained", f"--data.init_args.root={base}/data"]
    chain = base / "chain.yaml"
    folder = ROOT / "experiments"
    chain.write_text(f"stage1: {{config: {folder}/stage1.yaml}}\nstage2: {{config: {folder}/stage2.yaml, after: [stage1]}}\n")
    assert main(["chain", "submit", str(chain), *roots, *small, "--time", "00:30:00"]) == 0
    first, second = re.findall(r"chain: stage\d is job (.*)", capsys.readouterr().out)
    assert second.endswith(f", afterok:{first}")
    deadline = time.monotonic() + 300
    while not (base / "chained/stage2/manifest.json").exists():
        assert time.monotonic() < deadline, list((base / "logs").glob("*"))
        time.sleep(1)
    assert main(["chain", "status", str(chain), *roots, *small]) == 0
    assert capsys.readouterr().out.count("finished") == 2
