"""The last part of `bench gpu`: a small run on the benchmark world with the verbs of the command line, trained under ZeRO and sampled."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from baton_lightning.bench.gpu_parts import Figures

EXPERIMENTS = Path("experiments")


def verbs(device: torch.device) -> Figures:
    """Time of each verb, in s.

    The verbs build data, cache it, train two steps under ZeRO-2 and two under ZeRO-3 in bf16-mixed with validation and samples, and
    generate clips.

    Raises:
        ValueError: If the current folder is not a checkout.
        RuntimeError: If a verb fails.
    """
    if not (EXPERIMENTS / "stage3_adapt.yaml").is_file():
        raise ValueError("bench gpu: the part `runs` needs the experiments of a checkout; run it in the root of one")
    found: Figures = {}
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        for name, argv in commands(Path(folder), device.type == "cuda"):
            since = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "baton_lightning", *argv], capture_output=True, text=True)
            if done.returncode:
                print(done.stderr)
                output = [line for line in done.stderr.splitlines() if line.strip()]
                raise RuntimeError(f"`{argv[0]}` ({name}) exited with {done.returncode}: {' '.join(output[-1:])}")
            found[name] = time.perf_counter() - since
    return found


def commands(folder: Path, gpu: bool) -> list[tuple[str, list[str]]]:
    """Name and arguments of each verb, in order."""
    data, runs, end = f"{folder}/data", f"{folder}/runs", "" if gpu else "_cpu"
    common = [f"--run.root={runs}", f"--data.init_args.root={data}"]
    steps = ["--data.init_args.batch_size=4", "--trainer.devices=1", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    settings = ["--trainer.precision=bf16-mixed", "--model.init_args.optimizer", "torch.optim.AdamW"]
    warm = ["--model.init_args.scheduler.init_args.warmup_steps=1", "--trainer.enable_model_summary=false"]
    made = [
        ("data", ["shards", "world", data, "--train", "16", "--val", "4", "--test", "4", "--workers", "0"]),
        ("encode", ["predict", "-c", f"{EXPERIMENTS}/encode.yaml", *common]),
    ]
    for stage in (2, 3):
        files = ["-c", f"{EXPERIMENTS}/stage3_adapt.yaml", "-c", f"{EXPERIMENTS}/strategy/zero{stage}{end}.yaml"]
        made.append((f"fit, ZeRO-{stage}", ["fit", *files, *common, f"--run.experiment=zero{stage}", *steps, *settings, *warm]))
    return [
        *made,
        ("generate", ["generate", "--run", f"{runs}/zero3/stage3_adapt", "--num", "2", "--plan", "truth", "--out", f"{folder}/clips"]),
    ]
