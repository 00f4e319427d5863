"""What goes wrong on a cluster, done on purpose to real runs: each ends with one line and a code, and the same command goes on after it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.bench.resume_case import SAVE_EVERY, Case
from baton_lightning.launch.processes import call
from baton_lightning.runs import checkpoints

STEPS = 2 * SAVE_EVERY + 2
FAULTS = """
import os, resource, signal
from pathlib import Path
from lightning.pytorch import Callback

class Fault(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        flag = Path(trainer.default_root_dir, "fault")
        if trainer.global_step != 5 or not flag.exists():
            return
        what, _, rank = flag.read_text().partition(" ")
        if what == "kill" and trainer.global_rank == int(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
        if what == "fill" and trainer.global_rank == 0:
            with Path(trainer.default_root_dir, "ballast").open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(65536)) == 65536:
                        pass
                except OSError:
                    pass
                file.truncate(file.tell() - 131072)  # room for lines of the ledger
"""


class Run:
    """A run of stage 1 that something happens to at step 5, behind the checkpoint of step 4."""

    def __init__(self, case: Case, name: str) -> None:
        (case.root.parent / "faults.py").write_text(FAULTS)
        self.folder, self.output, self.ranks = case.run(name), case.output_file, case.ranks
        self.argv = [*case.command(name), "--trainer.callbacks+=faults.Fault"]
        self.last = self.folder / "checkpoints" / f"step-{SAVE_EVERY}.ckpt"

    def with_fault(self, what: str) -> tuple[int, str]:
        self.folder.mkdir(parents=True)
        (self.folder / "fault").write_text(what)
        try:
            return self()
        finally:
            (self.folder / "fault").unlink()
            (self.folder / "ballast").unlink(missing_ok=True)

    def __call__(self) -> tuple[int, str]:
        """Exit code and what was said, once all processes have ended by themselves."""
        command = [sys.executable, "-m", "baton_lightning", *self.argv]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            output, _ = process.communicate(timeout=400)  # until the last rank has closed its output
            with pytest.raises(ProcessLookupError):
                for _ in range(50):
                    os.killpg(process.pid, 0)
                    time.sleep(0.1)
            return process.returncode, output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def steps(self) -> list[str]:
        return (self.folder / "ledger.jsonl").read_text().splitlines()

    def goes_on(self) -> None:
        """By the same command, from the checkpoint that was whole; steps before it are those that were made."""
        before = self.steps()[:SAVE_EVERY]
        output = call(self.argv, self.output, self.ranks)
        assert f"from {self.last}" in output, output[-3000:]
        assert self.steps()[:SAVE_EVERY] == before and [json.loads(line)["step"] for line in self.steps()] == list(range(1, STEPS + 1))
        assert (self.folder / "manifest.json").exists()


@pytest.fixture
def run(survival: Path, request: pytest.FixtureRequest) -> Callable[..., Run]:
    def make(strategy: str, ranks: int, work: Path | None = None) -> Run:
        case = Case(work or survival, "stage1", strategy, ranks, steps=STEPS, data=survival / "data")
        return Run(case, request.node.name.replace("[", "-").strip("]"))

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def is_one_line(output: str, message: str) -> bool:
    """Errors are one line a rank, without a traceback."""
    errors = [line for line in output.splitlines() if "baton_lightning: error" in line]
    return bool(errors) and all(message in line for line in errors) and "Traceback" not in output


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before(run: Callable[..., Run], small_disk: Path) -> None:
    stopped = run("ddp", 2, small_disk)
    code, output = stopped.with_fault("fill")
    assert code == 1 and is_one_line(output, f"step 8 could not be saved as {stopped.last.with_name('step-8.ckpt')} (No space left"), (
        output[-3000:]
    )
    assert f"{stopped.last} is complete; repeat the command to resume from it" in output
    assert not list(stopped.last.parent.glob("*.part")) and len(stopped.steps()) == 8
    stopped.goes_on()


@pytest.mark.slow
def test_shards_that_cannot_be_written_or_were_changed_are_not_opened_and_the_ones_before_are(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    """A limit on the size of files stands for a full disk; the pickle in a shard would run code."""
    stopped = run("zero2_cpu", 2)
    code, output = stopped.with_fault("limit")
    assert code == 1 and is_one_line(output, "step 8 could not be saved"), output[-3000:]
    shard = next(stopped.last.rglob("*rank_1*optim_states.pt"))
    whole = shard.read_bytes()
    evil = pickle.dumps(Payload(tmp_path / "ran"))
    shard.write_bytes(evil + bytes(len(whole) - len(evil)))
    code, output = stopped()
    assert code == 1 and is_one_line(output, f"{stopped.last} differs from its manifest"), output[-3000:]
    assert not (tmp_path / "ran").exists()
    shard.write_bytes(whole)
    stopped.goes_on()
    weights = (stopped.folder / "weights.safetensors").read_bytes()
    (stopped.folder / "manifest.json").unlink()  # not finished after all
    shard = next(stopped.last.with_name("step-8.ckpt").rglob("*rank_1*optim_states.pt"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, output = stopped()
    assert code == 0 and "kept as step-8.ckpt.damaged" in output and f"from {stopped.last}, which repeats 4 steps" in output, output[-3000:]
    assert (stopped.folder / "weights.safetensors").read_bytes() == weights


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_rank_dies_the_other_ends_and_the_run_goes_on_later(run: Callable[..., Run], rank: int) -> None:
    stopped = run("ddp", 2)
    code, output = stopped.with_fault(f"kill {rank}")
    assert code != 0 and not (stopped.folder / "manifest.json").exists(), output[-3000:]
    assert rank or code == -signal.SIGKILL
    stopped.goes_on()


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.slow
def test_a_file_that_would_run_code_or_is_no_longer_the_one_that_was_written_is_not_loaded(
    survival: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*Case(tmp_path, steps=SAVE_EVERY + 1, data=survival / "data").command("e"), "--trainer.strategy=auto"]
    assert main(argv) == 0
    folder = tmp_path / "runs/e/stage1"
    (folder / "manifest.json").unlink()  # not finished after all
    checkpoint = folder / f"checkpoints/step-{SAVE_EVERY}.ckpt"
    described = json.loads(checkpoints.manifest_of(checkpoint).read_text())

    torch.save({"evil": Payload(tmp_path / "ran")}, checkpoint)
    capsys.readouterr()
    assert main(argv) == 1
    assert "no complete checkpoint to resume from" in capsys.readouterr().err  # it has another size

    described["files"]["."]["bytes"] = checkpoint.stat().st_size
    checkpoints.manifest_of(checkpoint).write_text(json.dumps(described))
    assert main(argv) == 1
    assert "differs from its manifest" in capsys.readouterr().err

    described["files"] = checkpoints.described(checkpoint, ["."])
    checkpoints.manifest_of(checkpoint).write_text(json.dumps(described))
    assert main(argv) == 1
    assert "nothing in it was run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
