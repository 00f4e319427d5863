"""A small run that is killed and resumed: its data set, parents and command, and the comparison of two runs."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from baton_lightning import settings
from baton_lightning.arguments import require_at_least_one
from baton_lightning.launch.processes import call
from baton_lightning.runs import manifest
from baton_lightning.runs.ledgers import NAME as LEDGER
from baton_lightning.shards.format import CACHE

CLIPS, BATCH, SAVE_EVERY = 32, 4, 4
PARENT_STEPS = 2


@dataclass(frozen=True)
class Case:
    """A run to kill and resume.

    Args:
        work: Folder of runs; an existing data set and existing parents in it are reused.
        stage: Name of the experiment file.
        strategy: Name of an overlay in ``strategy/``.
        ranks: Number of processes.
        steps: Optimiser steps of a run.
        kills: Number of times that a run is killed.
        repeats: Number of runs that are killed, each at other steps.
        seed: Seed of the steps at which runs are killed.
        workers: Number of data loader processes per rank.
        accumulate: Batches per optimiser step.
        data: A cached data set; ``None`` builds one.
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
    def output_file(self) -> Path:
        """File with the output of the latest process."""
        return self.work / "output.txt"

    @property
    def kill_steps(self) -> list[list[int]]:
        """Steps at which each run is killed, once the ledger contains them. The last steps are excluded, as the run might end before."""
        draw = random.Random(self.seed)
        return [sorted(draw.sample(range(1, self.steps - 1), self.kills)) for _ in range(self.repeats)]

    def run(self, name: str) -> Path:
        return self.work / "runs" / name / self.stage

    def words(self, experiment: str, steps: int) -> list[str]:
        """Command-line settings of a small run."""
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
        """Command that trains the stage, at the start and after every kill."""
        often = self.work / "often.yaml"
        callbacks = yaml.safe_load((self.experiments / "base.yaml").read_text())["trainer"]["callbacks"]
        callbacks[0]["init_args"]["every_n_train_steps"] = SAVE_EVERY
        often.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        files = [self.experiments / f"{self.stage}.yaml", often, self.experiments / "strategy" / f"{self.strategy}.yaml"]
        parents = {role: f"{self.work}/runs/parents/{stage}" for role, stage in self.parents(self.stage).items()}
        more = [f"--model.init_args.parents={json.dumps(parents)}"] if parents else []
        if self.strategy.startswith("zero"):
            more += ["--model.init_args.optimizer", "torch.optim.AdamW"]  # the demo's own optimiser needs complete matrices
        return [
            "fit",
            *(word for file in files for word in ("-c", str(file))),
            *self.words(name, self.steps),
            f"--trainer.devices={self.ranks}",
            f"--trainer.accumulate_grad_batches={self.accumulate}",
            *more,
        ]

    def parents(self, stage: str) -> dict[str, str]:
        """Role -> name of the parent stage."""
        model = settings.read([self.experiments / f"{stage}.yaml"])["model"]["init_args"]
        return {role: Path(run).name for role, run in (model.get("parents") or {}).items()}

    def prepare(self) -> None:
        """Builds the data set and trains the parents, unless they exist."""
        self.work.mkdir(parents=True, exist_ok=True)
        if self.data is None and not (self.root / CACHE).exists():
            log("building a small data set of the benchmark world")
            shutil.rmtree(self.root, ignore_errors=True)
            call(
                ["shards", "world", str(self.root), "--train", str(CLIPS), "--val", "4", "--test", "4", "--workers", "0"], self.output_file
            )
            paths = [f"--data.init_args.root={self.root}", f"--run.root={self.work}/runs", "--trainer.accelerator=cpu"]
            call(["predict", "-c", str(self.experiments / "encode.yaml"), *paths], self.output_file)
        self.prepare_parents(self.stage)

    def prepare_parents(self, stage: str) -> None:
        for parent in self.parents(stage).values():
            self.prepare_parents(parent)
            if not (self.work / "runs/parents" / parent / manifest.NAME).exists():
                log(f"training {parent} for {PARENT_STEPS} steps, as a parent")
                call(["fit", "-c", str(self.experiments / f"{parent}.yaml"), *self.words("parents", PARENT_STEPS)], self.output_file)


def first_difference(whole: Path, killed: Path) -> str | None:
    """First difference of two finished runs: a step and field of the ledger, or else a weight; ``None`` if they are identical."""
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


def log(text: str) -> None:
    print(text, flush=True)
