"""Whether a killed run ends as one that nothing stopped: the same ledger byte for byte, the same weights bit for bit.

A stage is trained on a small set of the benchmark world, on processors in float32. The first run is left alone. Another gets SIGKILL, all
of its processes at once, as soon as its ledger has reached a step that was drawn at random, and is started again by the same command; this
several times, and if wanted with further runs and other steps. Parents of the stage are trained shortly before.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from baton_lightning import atomic, settings
from baton_lightning.arguments import require_at_least_one
from baton_lightning.launch.processes import call, kill_at
from baton_lightning.runs import manifest
from baton_lightning.runs.ledgers import NAME as LEDGER
from baton_lightning.shards.format import CACHE

CLIPS, BATCH, SAVE_EVERY = 32, 4, 4
PARENT_STEPS = 2


@dataclass(frozen=True)
class Case:
    """What is stopped and gone on with.

    Args:
        work: Folder of runs; a set and parents that lie there are used again.
        stage: Name of the experiment file.
        strategy: Name of an overlay in ``strategy/``.
        ranks: Processes.
        steps: Optimiser steps of a run.
        kills: How often a run is killed.
        repeats: Runs that are killed, each at steps of its own.
        seed: Of the steps at which they are.
        workers: Further processes of each rank that read data.
        accumulate: Batches of an optimiser step.
        data: A cached data set; ``None`` makes one.
        experiments: Folder of the experiment files.
    """

    work: Path
    stage: str = "stage1"
    strategy: str = "ddp"
    ranks: int = 1
    steps: int = 20
    kills: int = 3
    repeats: int = 1
    seed: int = 0
    workers: int = 0
    accumulate: int = 1
    data: Path | None = None
    experiments: Path = Path("experiments")

    def __post_init__(self) -> None:
        for file in (self.experiments / f"{self.stage}.yaml", self.experiments / "strategy" / f"{self.strategy}.yaml"):
            if not file.is_file():
                raise ValueError(f"bench resume: there is no {file}; run it in the root of a checkout or give --experiments")
        if not 1 <= self.kills <= self.steps - 2:
            raise ValueError(f"bench resume: --kills must be from 1 to --steps - 2 = {self.steps - 2}, got {self.kills}")
        require_at_least_one("bench resume", self, "ranks", "repeats")

    @property
    def root(self) -> Path:
        return self.data or self.work / "data"

    @property
    def said(self) -> Path:
        """What the latest process said."""
        return self.work / "said.txt"

    @property
    def kill_steps(self) -> list[list[int]]:
        """For each run, steps that are in the ledger when it is killed; none is so late that it could end before."""
        draw = random.Random(self.seed)
        return [sorted(draw.sample(range(1, self.steps - 1), self.kills)) for _ in range(self.repeats)]

    def run(self, name: str) -> Path:
        return self.work / "runs" / name / self.stage

    def words(self, experiment: str, steps: int) -> list[str]:
        """Settings that make a run small."""
        return [
            f"--run.root={self.work}/runs",
            f"--run.experiment={experiment}",
            f"--data.init_args.root={self.root}",
            f"--data.init_args.batch_size={BATCH}",
            f"--data.init_args.num_workers={self.workers}",
            f"--trainer.max_steps={steps}",
            f"--trainer.val_check_interval={min(steps, 2 * SAVE_EVERY)}",
            "--trainer.accelerator=cpu",
            "--trainer.enable_model_summary=false",
            "--model.init_args.scheduler.init_args.warmup_steps=1",
        ]

    def command(self, name: str) -> list[str]:
        """How the stage is trained, first and again after every kill."""
        often = self.work / "often.yaml"
        callbacks = yaml.safe_load((self.experiments / "base.yaml").read_text())["trainer"]["callbacks"]
        callbacks[0]["init_args"]["every_n_train_steps"] = SAVE_EVERY
        often.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        files = [self.experiments / f"{self.stage}.yaml", often, self.experiments / "strategy" / f"{self.strategy}.yaml"]
        parents = {role: f"{self.work}/runs/parents/{stage}" for role, stage in self.parents(self.stage).items()}
        more = [f"--model.init_args.parents={json.dumps(parents)}"] if parents else []
        if self.strategy.startswith("zero"):
            more += ["--model.init_args.optimizer", "torch.optim.AdamW"]  # the demo's own needs whole matrices
        return [
            "fit",
            *(word for file in files for word in ("-c", str(file))),
            *self.words(name, self.steps),
            f"--trainer.devices={self.ranks}",
            f"--trainer.accumulate_grad_batches={self.accumulate}",
            *more,
        ]

    def parents(self, stage: str) -> dict[str, str]:
        """Role -> name of the stage that a stage starts from."""
        model = settings.read([self.experiments / f"{stage}.yaml"])["model"]["init_args"]
        return {role: Path(run).name for role, run in (model.get("parents") or {}).items()}

    def prepare(self) -> None:
        """Makes the set and trains parents, unless they are there."""
        self.work.mkdir(parents=True, exist_ok=True)
        if self.data is None and not (self.root / CACHE).exists():
            say("making a small set of the benchmark world")
            shutil.rmtree(self.root, ignore_errors=True)
            call(["shards", "world", str(self.root), "--train", str(CLIPS), "--val", "4", "--test", "4", "--workers", "0"], self.said)
            paths = [f"--data.init_args.root={self.root}", f"--run.root={self.work}/runs", "--trainer.accelerator=cpu"]
            call(["predict", "-c", str(self.experiments / "encode.yaml"), *paths], self.said)
        self.prepare_parents(self.stage)

    def prepare_parents(self, stage: str) -> None:
        for parent in self.parents(stage).values():
            self.prepare_parents(parent)
            if not (self.work / "runs/parents" / parent / manifest.NAME).exists():
                say(f"training {parent} for {PARENT_STEPS} steps, to start from")
                call(["fit", "-c", str(self.experiments / f"{parent}.yaml"), *self.words("parents", PARENT_STEPS)], self.said)


def prove(case: Case) -> dict[str, Any]:
    """Runs a case.

    Returns:
        What was done and found; ``first_difference`` is ``None`` if there is none.

    Raises:
        RuntimeError: If a run failed, or ended before it could be killed.
    """
    case.prepare()
    name = f"{case.stage}-{case.strategy}-{case.ranks}"
    whole = f"{name}-whole"
    shutil.rmtree(case.work / "runs" / whole, ignore_errors=True)
    started = time.monotonic()
    command = case.command(whole)
    call(command, case.said, case.ranks)
    say(f"uninterrupted: {case.steps} steps in {time.monotonic() - started:.0f} s")
    reached, difference = [], None
    for repeat, steps in enumerate(case.kill_steps):
        killed = f"{name}-killed-{repeat}"
        shutil.rmtree(case.work / "runs" / killed, ignore_errors=True)
        again = case.command(killed)
        reached.append([kill_at(again, case.said, case.ranks, case.run(killed) / LEDGER, step) for step in steps])
        call(again, case.said, case.ranks)
        found = first_difference(case.run(whole), case.run(killed))
        say(f"killed when the ledger had {reached[-1]} steps, went on to the end: {found or 'identical'}")
        difference = difference or found
    return {
        "stage": case.stage,
        "strategy": case.strategy,
        "ranks": case.ranks,
        "workers": case.workers,
        "steps": case.steps,
        "seed": case.seed,
        "kill_steps": case.kill_steps,
        "ledger_at_kill": reached,
        "first_difference": difference,
        "seconds": round(time.monotonic() - started, 1),
        "trained_by": shlex.join(["python", "-m", "baton_lightning", *command]),
    }


def first_difference(whole: Path, killed: Path) -> str | None:
    """Where two finished runs first differ: a step and field of the ledger, else a weight; ``None`` if they do not."""
    from safetensors.torch import load_file

    ledgers = [(run / LEDGER).read_bytes() for run in (whole, killed)]
    if ledgers[0] != ledgers[1]:
        lines = [ledger.splitlines() for ledger in ledgers]
        for was, now in zip(*lines, strict=False):
            if was != now:
                a, b = json.loads(was), json.loads(now)
                field = next((key for key in a if a[key] != b.get(key)), "form")
                return f"step {a['step']}: {field} is {b.get(field)}, was {a.get(field)} in the uninterrupted run"
        return f"the ledger has {len(lines[1])} lines, {len(lines[0])} in the uninterrupted run"
    one, other = (load_file(run / manifest.WEIGHTS) for run in (whole, killed))
    if one.keys() != other.keys():
        return f"weights: only one run has {min(one.keys() ^ other.keys())}"
    bits = {key: (one[key].numpy().tobytes(), other[key].numpy().tobytes()) for key in sorted(one)}
    return next((f"weights: {key}" for key, (a, b) in bits.items() if a != b or one[key].shape != other[key].shape), None)


def say(text: str) -> None:
    print(text, flush=True)


# ---- the verb
def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.epilog = (
        "examples:\n  python -m baton_lightning bench resume --stage stage1 --kills 3 --json resume.json\n"
        "  python -m baton_lightning bench resume --stage stage1 stage3_joint --strategy ddp zero3_cpu --ranks 1 2"
    )
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    add("--stage", **several, default=["stage1"], help="experiment files: stage1, stage2, stage3_adapt, stage3_joint (default: stage1)")
    add(
        "--strategy",
        **several,
        default=["ddp"],
        help="overlays of experiments/strategy: ddp, zero1_cpu, ... (default: ddp)",
    )
    add(
        "--ranks",
        type=int,
        nargs="+",
        metavar="N",
        default=[1],
        help="processes; all combinations are tried (default: 1)",
    )
    add("--kills", type=int, default=3, help="how often a run is killed (default: %(default)s)")
    add("--repeats", type=int, default=1, help="runs that are killed, each at steps of its own (default: %(default)s)")
    add("--steps", type=int, default=20, help="optimiser steps of a run (default: %(default)s)")
    add("--seed", type=int, default=0, help="draws the steps at which they are killed (default: %(default)s)")
    add("--workers", type=int, default=0, help="further processes of each rank that read data (default: %(default)s)")
    add("--data", type=Path, metavar="ROOT", help="a cached data set; default: one of the benchmark world is made")
    add("--work", type=Path, metavar="DIR", help="keep set, parents and runs there, and use those that are; default: a temporary folder")
    add("--experiments", type=Path, default=Path("experiments"), help="folder of the experiment files (default: %(default)s)")
    add("--settings", action="store_true", help="instead, change one setting after another between the kill and the resume of stage1")
    add("--json", type=Path, metavar="FILE", help="write what was found; `headline` holds identical and first_difference")


def main(options: argparse.Namespace) -> int:
    """Runs all combinations of what was chosen, prints a table, and exits 1 if there is a difference."""
    from rich.console import Console
    from rich.table import Table

    sys.warnoptions.append("ignore:resource_tracker")  # of processes that are killed, whose semaphores it clears
    if options.settings:
        from baton_lightning.bench import resume_settings

        return resume_settings.main(options)
    chosen = list(product(options.stage, options.strategy, options.ranks))
    rest = {name: getattr(options, name) for name in ("steps", "kills", "repeats", "seed", "workers", "data", "experiments")}
    with tempfile.TemporaryDirectory(prefix="bench-resume-") as scratch:
        work = (options.work or Path(scratch)).resolve()
        cases = [Case(work, stage, strategy, ranks, **rest) for stage, strategy, ranks in chosen]
        found = []
        for number, case in enumerate(cases, 1):
            say(f"{number}/{len(cases)}: {case.stage}, {case.strategy}, ranks: {case.ranks}")
            found.append(prove(case))
    differences = [f"{c['stage']}, {c['strategy']}, ranks: {c['ranks']}: {c['first_difference']}" for c in found if c["first_difference"]]
    headline = {"identical": not differences, "first_difference": next(iter(differences), None)}
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("deepspeed", *manifest.PACKAGES)}}
    if options.json:
        command = shlex.join(["python", "-m", "baton_lightning", *sys.argv[1:]])
        text = json.dumps({"headline": headline, "command": command, "versions": versions, "cases": found}, indent=1)
        atomic.write_text(options.json, text + "\n")
    table = Table(title="runs that were killed against one that was not")
    for column in ("stage", "strategy", "ranks", "steps", "killed at steps", "seconds", "ledger and weights"):
        table.add_column(column)
    for row in found:
        killed = "; ".join(", ".join(map(str, steps)) for steps in row["ledger_at_kill"])
        verdict = f"DIFFERENT: {row['first_difference']}" if row["first_difference"] else "identical"
        table.add_row(row["stage"], row["strategy"], str(row["ranks"]), str(row["steps"]), killed, f"{row['seconds']:.0f}", verdict)
    Console().print(table)
    return 0 if headline["identical"] else 1
