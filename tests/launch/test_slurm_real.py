"""A real SLURM: arrays and chains whose jobs are requeued, suspended, held, cancelled and timed out, and what is said of them.

With ``BATON_SLURM=1`` a cluster of one node is brought up for these tests (slurm_cluster.sh; root on Debian). Without it they run where
a controller answers, and are skipped elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
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


OWN = os.environ.get("BATON_SLURM") == "1"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not OWN and bool(unreachable()), reason=f"no BATON_SLURM=1, and {unreachable()}")]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster that answers."""
    if not unreachable():
        yield
        return
    folder, script = tmp_path_factory.mktemp("cluster"), Path(__file__).with_name("slurm_cluster.sh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        told = subprocess.run([script, "up", folder], capture_output=True, text=True)
        try:
            if told.returncode:
                pytest.skip(f"SLURM cannot be brought up here: {told.stderr.strip()[-300:]}")
            yield
        finally:
            subprocess.run(["scancel", "--user=root"], capture_output=True)
            subprocess.run([script, "down", folder], capture_output=True)


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


def until(true: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, subprocess.run(["scontrol", "show", "jobs"], capture_output=True, text=True).stdout[-3000:]
        time.sleep(0.3)


def test_a_chain_is_told_truly_and_submitted_once_whatever_happens_to_its_jobs(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless = [word.replace(str(STEPS), "100000") for word in SMALL]
    argv = [f"--run.root={base}", "--run.experiment=told", f"--data.init_args.root={base}/data", *endless]
    chain, folder, run = base / "told.yaml", ROOT / "experiments", base / "told/stage1"
    chain.write_text(f"stage1: {{config: {folder}/stage1.yaml}}\nstage2: {{config: {folder}/stage2.yaml, after: [stage1]}}\n")

    def status() -> str:
        capsys.readouterr()
        assert main(["chain", "status", str(chain), *argv]) == 0
        said = capsys.readouterr().out
        with capsys.disabled():
            print("\n" + "\n".join(line for line in said.splitlines() if "stage" in line))
        return " ".join(said.split())

    def submit(jobs: int) -> str:
        """Submits the chain once more; that many jobs are new."""
        capsys.readouterr()
        assert main(["chain", "submit", str(chain), *argv, "--time", "01:00:00"]) == 0
        said = capsys.readouterr().out
        assert len(re.findall(r"chain: stage\d is job", said)) == jobs, said
        return said

    def slurm(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def steps() -> int:
        return (run / "ledger.jsonl").read_bytes().count(b"\n") if (run / "ledger.jsonl").exists() else 0

    def working() -> list[int]:
        """Processes of the chain's jobs that have come past the start of Python, without those of srun."""
        lines = subprocess.run(["pgrep", "-af", "baton_lightning fit.*experiment=told"], capture_output=True, text=True).stdout.splitlines()
        found = [int(line.split()[0]) for line in lines if "python" in line.split()[1]]
        return [pid for pid in found if "torch" in Path(f"/proc/{pid}/maps").read_text()]

    first, second = re.findall(r"is job (\d+)", submit(2))
    log = base / f"logs/told-stage1-{first}.out"
    assert f"{second} PENDING (Dependency)" in status()
    submit(0)
    until(lambda: steps() >= 3)
    assert f"{first} RUNNING" in status()

    slurm("scontrol", "suspend", first)
    assert f"{first} SUSPENDED" in status() and "already" in submit(0)
    slurm("scontrol", "resume", first)
    made = steps()
    until(lambda: steps() > made + 2)  # SLURM kills at once what it has just let go on

    slurm("scontrol", "requeuehold", first)
    until(lambda: "no step is lost" in log.read_text())
    assert f"step-{steps()}.ckpt" in status()
    submit(0)
    until(lambda: "PENDING" in slurm("squeue", "-h", "-j", first, "-o", "%T"))
    assert f"│ queued │ {steps()} │" in (said := status()) and f"{first} PENDING (job requeued in held state)" in said
    submit(0)

    slurm("scontrol", "release", first)
    until(working)
    made = steps()
    slurm("scancel", "--signal=USR1", first)  # before anything is ready
    until(lambda: f"requeued {first}" in log.read_text())
    assert steps() == made + 1, log.read_text()[-3000:]

    until(lambda: steps() > made + 3)
    slurm("scancel", first)
    until(lambda: log.read_text().count("no step is lost") == 2)
    until(lambda: not slurm("squeue", "-h").strip())
    said = status()
    assert f"interrupted at step {steps()}" in said and f"stage1: job {first} CANCELLED ({log})" in said and f"{second} CANCELLED" in said


def test_a_job_whose_time_is_over_is_told_with_the_last_line_of_its_log(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, chain = base / "late.yaml", base / "late_chain.yaml"
    config.write_text(f"base: {ROOT}/experiments/stage1.yaml\ntrainer: {{callbacks: [{{class_path: callbacks.ledger.Ledger}}]}}\n")
    chain.write_text("stage1: {config: late.yaml}\n")  # nothing in it requeues
    endless = [word.replace(str(STEPS), "100000") for word in SMALL]
    argv = [f"--run.root={base}", "--run.experiment=late", f"--data.init_args.root={base}/data", *endless]
    assert main(["chain", "submit", str(chain), *argv, "--time", "00:01:00", "--lead", "30"]) == 0
    job = re.search(r"is job (\d+)", capsys.readouterr().out)[1]
    wait(job)
    assert main(["chain", "status", str(chain), *argv]) == 0
    said = capsys.readouterr().out
    with capsys.disabled():
        print("\n" + said)
    assert f"{job} TIMEOUT" in said and f"stage1: job {job} TIMEOUT ({base}/logs/late-stage1-{job}.out)" in " ".join(said.split())
