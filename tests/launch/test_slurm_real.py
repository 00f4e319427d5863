"""A real SLURM: arrays and chains whose jobs are requeued, suspended, held, cancelled and timed out, and what is said of them.

`pytest -m slurm` runs these tests alone and in one process: one cluster of one node serves them all. It is brought up from Debian's
packages, unpacked in a folder (slurm_cluster.sh). Where the packages cannot be had, the tests are skipped, and the reason is said.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import pytest

from baton_lightning.__main__ import main

ROOT = Path(__file__).parents[2]
STEPS = 40
SMALL = ["--trainer.accelerator=cpu", "--model.init_args.scheduler.init_args.warmup_steps=1", "--data.init_args.batch_size=4"]
ENDLESS = [*SMALL, "--trainer.max_steps=100000"]

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Path]:
    """A cluster that answers, in a folder of its own. Only this process and those that it starts have it on the PATH."""
    script = Path(__file__).with_name("slurm_cluster.sh")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: sockets lie in it
    folder.chmod(0o755)
    try:
        told = subprocess.run([script, "up", folder], capture_output=True, text=True)
        if told.returncode == 77:
            pytest.skip(f"SLURM cannot be installed here: {told.stderr.strip()}")
        assert told.returncode == 0, told.stderr[-3000:]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            patch.setenv("PATH", f"{folder}/bin{os.pathsep}{os.environ['PATH']}")
            yield folder
    finally:
        subprocess.run([script, "down", folder], capture_output=True)


@pytest.fixture(scope="module")
def base(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data set with its cache, and the files of a chain."""
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("COLUMNS", "300")  # a table that is not broken into lines
        said("shards", "world", f"{folder}/data", "--train", "16", "--val", "4", "--test", "2", "--workers", "0")
        said("predict", "-c", "experiments/encode.yaml", f"--data.init_args.root={folder}/data", f"--run.root={folder}")
        for stage, steps in {"stage1": STEPS, "stage2": 3}.items():
            file = folder / f"{stage}.yaml"
            file.write_text(f"base: {ROOT}/experiments/{stage}.yaml\ntrainer: {{max_steps: {steps}, val_check_interval: {steps}}}\n")
        (folder / "chain.yaml").write_text("stage1: {config: stage1.yaml}\nstage2: {config: stage2.yaml, after: [stage1]}\n")
        yield folder


@pytest.fixture(scope="module")
def late(base: Path) -> tuple[str, list[str]]:
    """A job with the shortest time limit that SLURM knows, and the chain that it is of. Nothing in it requeues."""
    callbacks = "[{class_path: callbacks.ledger.Ledger}]"
    (base / "late.yaml").write_text(f"base: {ROOT}/experiments/stage1.yaml\ntrainer: {{callbacks: {callbacks}}}\n")
    (base / "late_chain.yaml").write_text("stage1: {config: late.yaml}\n")
    argv = [*words(base, "late"), *ENDLESS]
    said("slurm", "submit", "-c", f"{base}/late.yaml", *argv, "--time", "00:01:00", "--lead", "30")
    return slurm("squeue", "-h", "--name=late-stage1", "-o", "%i").strip(), [f"{base}/late_chain.yaml", *argv]


def words(base: Path, experiment: str) -> list[str]:
    return [f"--run.root={base}", f"--run.experiment={experiment}", f"--data.init_args.root={base}/data"]


def said(*argv: str) -> str:
    """What a verb prints that must end with 0. If it does not, all it printed is in the error."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(argv))
    assert code == 0, f"{argv}\n{out.getvalue()[-3000:]}\n{err.getvalue()[-3000:]}"
    return out.getvalue()


def slurm(*words: str) -> str:
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 0, f"{words}: {told.stdout}{told.stderr}"
    return told.stdout


def until(true: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, slurm("scontrol", "show", "jobs")[-3000:]
        time.sleep(0.2)


def in_queue(*jobs: str) -> str:
    return slurm("squeue", "-h", "-t", "PD,R,S,CG,CF", "-o", "%i %T %r", "-j", ",".join(jobs)).strip()


def steps(run: Path) -> int:
    return (run / "ledger.jsonl").read_bytes().count(b"\n") if (run / "ledger.jsonl").exists() else 0


def loading(base: Path, experiment: str) -> bool:
    """Whether a process of the experiment's jobs, not of srun, has come past the start of Python: it loads torch."""
    command = ["pgrep", "-af", f"baton_lightning fit.*run.root={base} .*experiment={experiment} "]
    for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
        pid, program, *_ = line.split()
        with suppress(OSError):  # it has ended
            if "python" in program and "torch" in Path(f"/proc/{pid}/maps").read_text():
                return True
    return False


@pytest.fixture
def status(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `chain status` says, in one line. It is shown, too."""

    def told(*argv: str) -> str:
        table = said("chain", "status", *argv)
        with capsys.disabled():
            print("\n" + "\n".join(line for line in table.splitlines() if "stage" in line))
        return " ".join(table.split())

    return told


def test_a_chain_of_arrays_one_of_whose_tasks_is_requeued_ends_as_plain_runs(base: Path, status: Callable[..., str]) -> None:
    chain = [f"{base}/chain.yaml", *words(base, "array"), *SMALL, "--grid", "seed_everything=0,1"]
    first, second = re.findall(r"chain: stage\d is job (\d+)", printed := said("chain", "submit", *chain, "--time", "00:30:00"))
    assert f"stage2 is job {second}, aftercorr:{first}\n" in printed
    runs = [base / f"array-seed_everything={seed}/stage1" for seed in range(2)]
    until(lambda: steps(runs[1]) >= STEPS // 4)
    slurm("scancel", "--signal=USR1", f"{first}_1")
    for seed in range(2):
        said("fit", "-c", f"{base}/stage1.yaml", *words(base, f"plain{seed}"), *SMALL, f"--seed_everything={seed}")
    until(lambda: not in_queue(first, second))
    assert status(*chain).count("finished") == 4
    logs = [(base / f"logs/array-stage1-{first}_{task}.out").read_text() for task in range(2)]
    assert re.search(rf"step (\d+) is saved in .*; requeued {first}_1", logs[1]) and f"resuming {runs[1]}/ from" in logs[1], logs[1]
    assert "requeued" not in logs[0] and all("finished " in log for log in logs)
    for seed, run in enumerate(runs):
        for name in ("ledger.jsonl", "weights.safetensors"):
            assert (run / name).read_bytes() == (base / f"plain{seed}/stage1" / name).read_bytes(), f"{name} of seed {seed}"
    assert (runs[0] / "ledger.jsonl").read_bytes() != (runs[1] / "ledger.jsonl").read_bytes()


@pytest.mark.usefixtures("late")  # its minute passes meanwhile
def test_a_chain_is_told_truly_and_submitted_once_whatever_happens_to_its_jobs(base: Path, status: Callable[..., str]) -> None:
    chain, run = [f"{base}/chain.yaml", *words(base, "told"), *ENDLESS], base / "told/stage1"

    def submit(jobs: int) -> list[str]:
        """Submits the chain once more; that many jobs are new."""
        new = re.findall(r"chain: stage\d is job (\d+)", printed := said("chain", "submit", *chain, "--time", "01:00:00"))
        assert len(new) == jobs and printed.count("already: job") == 2 - jobs, printed
        return new

    first, second = submit(2)
    log = base / f"logs/told-stage1-{first}.out"
    assert f"{second} PENDING (Dependency)" in status(*chain)
    submit(0)
    slurm("scontrol", "hold", second)
    assert f"{second} PENDING (JobHeldAdmin)" in status(*chain)
    submit(0)
    slurm("scontrol", "release", second)
    until(lambda: steps(run) >= 3)
    assert f"{first} RUNNING" in status(*chain)

    slurm("scontrol", "suspend", first)
    assert f"{first} SUSPENDED" in status(*chain)
    submit(0)
    slurm("scontrol", "resume", first)
    made = steps(run)
    until(lambda: steps(run) > made + 2)  # SLURM kills at once what it has just let go on

    slurm("scontrol", "requeuehold", first)
    until(lambda: "no step is lost" in log.read_text())
    assert f"step-{steps(run)}.ckpt" in status(*chain)
    submit(0)
    until(lambda: "PENDING" in in_queue(first))
    assert f"│ queued │ {steps(run)} │" in (told := status(*chain)) and f"{first} PENDING (job requeued in held state)" in told
    submit(0)

    slurm("scontrol", "release", first)
    until(lambda: loading(base, "told"))
    made = steps(run)
    slurm("scancel", "--signal=USR1", first)  # before anything is ready
    until(lambda: f"requeued {first}" in log.read_text())
    assert steps(run) == made + 1, log.read_text()[-3000:]
    until(lambda: "COMPLETING" not in in_queue(first))
    assert re.search(rf"│ (queued|running) │ {made + 1} │ .* │ {first} (PENDING \(BeginTime\)|RUNNING)", status(*chain))
    submit(0)

    until(lambda: steps(run) > made + 3)
    slurm("scancel", first)
    until(lambda: log.read_text().count("no step is lost") == 2)
    until(lambda: not in_queue(first, second))
    told = status(*chain)
    assert (
        f"interrupted at step {steps(run)}" in told and f"stage1: job {first} CANCELLED ({log})" in told and f"{second} CANCELLED" in told
    )
    again = submit(2)
    assert f"{again[0]} " in status(*chain) and not {first, second} & set(again)
    slurm("scancel", *again)
    until(lambda: not in_queue(*again))


def test_a_job_whose_time_is_over_is_told_with_the_last_line_of_its_log(
    base: Path, late: tuple[str, list[str]], status: Callable[..., str]
) -> None:
    job, chain = late
    until(lambda: not in_queue(job))
    log = base / f"logs/late-stage1-{job}.out"
    lines = [line.rpartition("\r")[2].split() for line in log.read_text().splitlines()]
    last = [" ".join(line) for line in lines if line and line[0] != "srun:"][-1]
    assert f"{job} TIMEOUT" in (told := status(*chain)) and f"stage1: job {job} TIMEOUT ({log}): TimeLimit, 0:15, {last}" in told
