"""Real processes: what a run says when it is stopped, what it exits with, and that the same command goes on as if nothing had been."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MODULE = """
import time
import torch
from lightning.pytorch import LightningModule

class Slow(LightningModule):
    def __init__(self, clip, seed: int = 0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)
    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        return (self.weight - batch.context.mean((0, 1))).square().sum()
"""
STEPS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of clips with texts, a module, and a configuration of both."""
    folder = tmp_path_factory.mktemp("killed")
    spec = importlib.util.spec_from_file_location("text_sets", ROOT / "tests/datamodules/conftest.py")
    sets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sets)
    base = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())
    from baton_lightning.clip import ClipSpec

    clip = base["clip"] | {"text_tokens": 2, "text_width": 3}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in clip.items()}
    sets.make_text_set(folder / "set", [5, 1, 7], clip=ClipSpec(**values))
    (folder / "slow_module.py").write_text(MODULE)
    saver = base["trainer"]["callbacks"][0]
    saver["init_args"] |= {"every_n_train_steps": 4}
    trainer = {"max_steps": STEPS, "val_check_interval": STEPS, "limit_val_batches": 0, "accelerator": "cpu"}
    config = {
        "base": str(ROOT / "experiments/base.yaml"),
        "clip": {"text_tokens": 2, "text_width": 3},
        "model": {"class_path": "slow_module.Slow"},
        "data": {"init_args": {"root": str(folder / "set"), "batch_size": 4, "fields": ["text"]}},
        "run": {"root": str(folder / "runs"), "experiment": "e"},
        "trainer": trainer | {"callbacks": [saver, {"class_path": "callbacks.ledger.Ledger"}]},
    }
    (folder / "slow.yaml").write_text(yaml.safe_dump(config))
    return folder


def start(folder: Path, name: str, *more: str, output: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "baton_lightning", "fit", "-c", str(folder / "slow.yaml"), f"--run.stage={name}", *more]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
    heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  a shell's `&` makes its children deaf
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=output,
        stderr=output,
        text=True,
        preexec_fn=heard,
        start_new_session=True,
    )


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    ledger = folder / "runs/e" / name / "ledger.jsonl"
    return [json.loads(line) for line in ledger.read_text().splitlines() if line.endswith("}")] if ledger.exists() else []


def stop_at(folder: Path, name: str, step: int, send: signal.Signals, *more: str, group: bool = False) -> tuple[int, str]:
    """Sends a signal to a run, or to all its processes as a terminal does, once the ledger has a step; returns exit code and output."""
    process = start(folder, name, *more)
    deadline = time.monotonic() + 90
    while not any(line["step"] >= step for line in lines(folder, name)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1][-3000:]
        time.sleep(0.02)
    os.killpg(process.pid, send) if group else process.send_signal(send)
    _, printed = process.communicate(timeout=60)
    return process.returncode, printed


def finish(folder: Path, name: str, *more: str) -> str:
    process = start(folder, name, *more)
    out, printed = process.communicate(timeout=120)
    assert process.returncode == 0, printed[-3000:]
    return out


@pytest.fixture(scope="module")
def whole(folder: Path) -> Callable[[str], bytes]:
    """The files of a run that nothing stopped."""
    finish(folder, "whole")
    return lambda file: (folder / "runs/e/whole" / file).read_bytes()


@pytest.mark.slow
def test_a_run_killed_interrupted_and_terminated_ends_as_one_that_was_not(folder: Path, whole: Callable[[str], bytes]) -> None:
    code, _ = stop_at(folder, "stopped", 6, signal.SIGKILL)
    assert code == -signal.SIGKILL and len(lines(folder, "stopped")) >= 6
    code, printed = stop_at(folder, "stopped", 15, signal.SIGINT)
    step = lines(folder, "stopped")[-1]["step"]
    assert code == 130 and "interrupted; repeat the command to resume from the last checkpoint" in printed
    assert f"step-{step}.ckpt of step {step}; no step is lost" in printed, printed[-2000:]
    workers = "--data.init_args.num_workers=2"  # which get the signal, too
    code, printed = stop_at(folder, "stopped", 26, signal.SIGTERM, workers, group=True)
    assert code == 143 and "terminated; repeat the command to resume from the last checkpoint" in printed and "no step is lost" in printed
    assert len(lines(folder, "stopped")) < STEPS and not (folder / "runs/e/stopped/manifest.json").exists()
    assert "resuming" in finish(folder, "stopped")
    stopped = folder / "runs/e/stopped"
    assert (stopped / "ledger.jsonl").read_bytes() == whole("ledger.jsonl")
    assert (stopped / "weights.safetensors").read_bytes() == whole("weights.safetensors")


@pytest.mark.slow
def test_two_ranks_are_terminated_together_and_their_ledger_names_the_samples_of_one(folder: Path, whole: Callable[[str], bytes]) -> None:
    ranks = ("--trainer.devices=2", "--trainer.strategy=ddp")
    code, printed = stop_at(folder, "ranks", 6, signal.SIGTERM, *ranks)
    assert code == 143 and printed.count("baton_lightning: terminated") == 2
    finish(folder, "ranks", *ranks)
    one, two = [json.loads(line) for line in whole("ledger.jsonl").splitlines()], lines(folder, "ranks")
    assert len(one) == len(two) == STEPS
    for alone, together in zip(one, two, strict=True):
        ranks_losses = [float.fromhex(loss) for loss in together.pop("rank_losses")]
        assert float.fromhex(together.pop("loss")) == sum(ranks_losses) / 2 and alone.pop("loss")
        assert alone == together


@pytest.mark.slow
def test_two_ranks_under_zero_that_are_interrupted_at_a_terminal_lose_no_step(folder: Path, whole: Callable[[str], bytes]) -> None:
    ranks = ("-c", str(ROOT / "experiments/strategy/zero2_cpu.yaml"), "--trainer.devices=2")
    code, printed = stop_at(folder, "zero", 6, signal.SIGINT, *ranks, group=True)
    step = lines(folder, "zero")[-1]["step"]
    assert code == 130 and f"step-{step}.ckpt of step {step}; no step is lost" in printed and "Traceback" not in printed, printed[-3000:]
    saved = folder / f"runs/e/zero/checkpoints/step-{step}.ckpt"
    assert f"from {saved}" in finish(folder, "zero", *ranks)
    one = [json.loads(line) for line in whole("ledger.jsonl").splitlines()]
    assert [(line["step"], line["digest"]) for line in lines(folder, "zero")] == [(line["step"], line["digest"]) for line in one]


RANKS = ("--trainer.devices=2", "--trainer.strategy=ddp")


def until(printed: Path, process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None and time.monotonic() < deadline, printed.read_text()[-3000:]
        time.sleep(0.05)


def two_ranks(folder: Path, name: str, *more: str) -> tuple[subprocess.Popen[str], Path]:
    """A run of two ranks whose output goes to a file."""
    printed = folder / f"{name}.output"
    with printed.open("w") as file:
        return start(folder, name, *RANKS, *more, output=file), printed


def child_of(process: subprocess.Popen[str]) -> int:
    """The other rank."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("who", ["told", "first", "second"])
def test_ranks_that_wait_for_each_other_end_when_told_and_when_one_is_dead(folder: Path, who: str) -> None:
    """The second node never comes, so that both ranks of this one wait in C++."""
    process, printed = two_ranks(folder, f"waits-{who}", "--trainer.num_nodes=2")
    until(printed, process, lambda: bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()))
    time.sleep(3)  # the first rank waits as soon as it has started the other
    other, began = child_of(process), time.monotonic()
    os.kill(*{"told": (process.pid, signal.SIGTERM), "first": (process.pid, signal.SIGKILL), "second": (other, signal.SIGKILL)}[who])
    code = process.wait(30)
    while not gone(other):
        assert time.monotonic() - began < 30
        time.sleep(0.1)
    text = printed.read_text()
    assert code == {"told": 143, "first": -9, "second": 1}[who], text[-2000:]
    named = {
        "told": "terminated",
        "first": f"rank 0 of this machine (pid {process.pid}) has ended, and rank 1 waited for it",
        "second": f"rank 1 (pid {other}) was killed by SIGKILL",
    }
    assert f"baton_lightning: {named[who]}" in text or f"baton_lightning: error: {named[who]}" in text, text[-2000:]


@pytest.mark.slow
def test_a_rank_that_dies_amid_the_steps_is_named_and_a_second_signal_ends_at_once(folder: Path) -> None:
    process, printed = two_ranks(folder, "dies")
    until(printed, process, lambda: len(lines(folder, "dies")) >= 5)
    other = child_of(process)
    os.kill(other, signal.SIGKILL)
    assert process.wait(30) == 1
    assert f"rank 1 (pid {other}) was killed by SIGKILL" in (text := printed.read_text()) and "resume from the last checkpoint" in text

    process, printed = two_ranks(folder, "dies", "--trainer.num_nodes=1")
    until(printed, process, lambda: len(lines(folder, "dies")) >= 9)
    other = child_of(process)
    os.kill(other, signal.SIGSTOP)  # a collective that never ends
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 143 and gone(other) and "terminated immediately" in printed.read_text()
