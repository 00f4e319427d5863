"""Speed of data loading relative to plain webdataset on the same shards, and the share of training time spent waiting for data.

Both loaders read the same tars, use the same decoder, and put the same tensors into batches of the same size. They are measured in turn,
and the order alternates. webdataset streams the shards in order, without shuffling. The datamodule seeks clips in the order of an epoch,
checks shapes and values, and can resume anywhere.

    ratio = median over repetitions of (samples/s of the datamodule) / (samples/s of webdataset)

The headline is the smallest ratio over media and cached tensors, with one and two workers. Waiting is measured in a real stage-3 fit with
one worker, within an epoch. The start of the workers, once per epoch, is not counted in either measurement.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import hints
from baton_lightning.bench.data_baseline import KINDS

if TYPE_CHECKING:
    from baton_lightning.batch import Batch
    from baton_lightning.clip import ClipSpec

LEAST_RATIO, MOST_WAIT = 0.9, 0.02
WORKERS = (1, 2)
LOGS = 5
"""Number of intervals of the fit in which waiting is measured. The first one includes the start of the worker and is not counted."""


@dataclass(frozen=True)
class Size:
    """Size of a measurement.

    Args:
        clips: Number of training clips of the generated set.
        shards: Number of its training shards, at least one per worker.
        repetitions: Number of pairs of measurements.
        batches: Number of batches of a measurement, by kind.
        steps: Optimiser steps of the fit, at most an epoch.
    """

    clips: int
    shards: int
    repetitions: int
    batches: dict[str, int]
    steps: int


FULL = Size(clips=1600, shards=8, repetitions=7, batches={"media": 30, "cached": 95}, steps=100)
QUICK = Size(clips=320, shards=4, repetitions=3, batches={"media": 8, "cached": 18}, steps=20)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.epilog = (
        "examples:\n  python -m baton_lightning bench data --quick\n  python -m baton_lightning bench data --json bench.json --strict\n"
        "  python -m baton_lightning bench data --data data/demo"
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="ROOT", help="a cached data set; default: one of the benchmark world, made in a temporary folder")
    add("--json", type=Path, metavar="FILE", help="write all figures; `headline` holds ratio_to_webdataset and data_wait")
    add("--quick", action="store_true", help="a smaller set and fewer repetitions: about a minute instead of several, and noisier")
    add("--batch-size", type=int, default=16, help="clips per batch (default: %(default)s)")
    add("--strict", action="store_true", help=f"exit 1 if the ratio is below {LEAST_RATIO} or the wait above {MOST_WAIT}")
    text = "class path of the datamodule that is measured (default: %(default)s)"
    add("--datamodule", default="datamodules.webshards.WebShards", metavar="CLASS", help=text)


def main(options: argparse.Namespace) -> int:
    """Runs the benchmark, prints a table and a verdict, and writes the figures. With ``--strict``, the exit code is 1 if a bound fails."""
    from tqdm import tqdm

    size = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix="bench-data-") as scratch:
        root = options.data or Path(scratch) / "set"
        if options.data is None:
            make_set(root, size)
        clip, shards, num_clips = geometry(root)
        if num_clips < LOGS * options.batch_size:
            raise ValueError(
                f"bench data: {root} must have {LOGS * options.batch_size} training clips, got {num_clips}; lower --batch-size"
            )
        if len(shards) < max(WORKERS):
            raise ValueError(
                f"bench data: {root} must have at least {max(WORKERS)} training shards, got {len(shards)}; one for each worker"
            )
        cases = [(kind, workers) for kind in KINDS for workers in WORKERS]
        with tqdm(total=len(cases) * (size.repetitions + 1) + 1, desc="bench data", unit="pair") as bar:
            rows: list[dict[str, Any]] = []
            for kind, workers in cases:
                sides = {
                    "ours": ours(options.datamodule, root, clip, kind, options.batch_size, workers),
                    "webdataset": theirs(shards, clip, kind, options.batch_size, workers),
                }
                rows.append({"kind": kind, "num_workers": workers} | compare(sides, size.batches[kind], size.repetitions, bar.update))
            bar.set_description("stage 3")
            steps = min(size.steps, num_clips // options.batch_size)
            waits = waiting(root, Path(scratch), options.batch_size, steps)
            bar.update()
    found: dict[str, Any] = {
        "headline": {"ratio_to_webdataset": min(row["ratio"] for row in rows), "data_wait": statistics.mean(waits)},
        "bounds": {"ratio_to_webdataset": LEAST_RATIO, "data_wait": MOST_WAIT},
        "loaders": rows,
        "data_wait": {"steps": steps, "shares": waits, "num_workers": 1},
        "settings": {"batch_size": options.batch_size, "quick": options.quick, "data": str(options.data or "made"), "cpus": os.cpu_count()},
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1))
    return 1 - show(found) if options.strict else 0 * show(found)


# ---- data
def make_set(root: Path, size: Size) -> None:
    """Builds and caches a set of the benchmark world with the verbs of the command line."""
    counts = ["--train", str(size.clips), "--val", "16", "--test", "1", "--shard-size", str(size.clips // size.shards)]
    run_verb(root.parent / "shards.log", "shards", "world", str(root), *counts)
    folders = [f"--data.init_args.root={root}", f"--run.root={root.parent}/runs", "--data.init_args.num_tasks=1"]
    run_verb(root.parent / "encode.log", "predict", "-c", "experiments/encode.yaml", *folders)


def run_verb(log: Path, *argv: str) -> None:
    """Runs a verb in a separate process with one thread.

    Raises:
        RuntimeError: If it fails; the message ends with its last output.
    """
    with log.open("w") as file:
        command = [sys.executable, "-m", "baton_lightning", *argv]
        code = subprocess.run(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    if code:
        raise RuntimeError(f"`{argv[0]}` of the bench failed with exit code {code}: {log.read_text()[-1500:]}")


def geometry(root: Path) -> tuple[ClipSpec, list[Path], int]:
    """Geometry of a cached set, the tars of its training clips, and the number of these clips.

    Raises:
        ValueError: If the set has no cache, or has clips without picture or sound.
    """
    from baton_lightning.shards.format import BUCKETS, CACHE, SplitIndex
    from baton_lightning.shards.stored_clip import clip_of

    index = SplitIndex.read(root / "train")
    if not (root / CACHE).exists():
        raise ValueError(f"bench data: {root} must be cached; run {hints.predict(hints.ENCODE, root)} first")
    if alone := {entry.get("bucket", BUCKETS[0]) for entry in index.shards} - {BUCKETS[0]}:
        raise ValueError(
            f"bench data: {root} must hold only clips with both picture and sound, got clips with only {' or '.join(sorted(alone))}"
        )
    clip = clip_of(json.loads((root / CACHE).read_text())["clip"])
    return clip, [index.tar(number) for number in range(len(index.shards))], index.num_clips


# ---- the two sides
def ours(class_path: str, root: Path, clip: ClipSpec, kind: str, batch_size: int, workers: int) -> Callable[[], Iterable[Batch]]:
    """The datamodule's training loader, shuffled."""
    module, _, name = class_path.rpartition(".")
    make = getattr(importlib.import_module(module), name)
    data = make(clip=clip, root=str(root), batch_size=batch_size, fields=KINDS[kind], num_workers=workers)
    data.setup("fit")
    return data.train_dataloader


def theirs(shards: list[Path], clip: ClipSpec, kind: str, batch_size: int, workers: int) -> Callable[[], Iterable[Batch]]:
    """webdataset's pipeline in webdataset's loader."""
    from baton_lightning.bench.data_baseline import loader

    return lambda: loader(shards, clip, kind, batch_size, workers)


def speed(loader: Iterable[Batch], batches: int) -> float:
    """Samples/s after the first batch, so that the start of the workers is not counted."""
    source = iter(loader)
    next(source)
    start, count = time.perf_counter(), 0
    for batch in islice(source, batches):
        count += len(batch)
    if not count:
        raise ValueError("bench data: the training split must hold at least two batches for each worker; use a larger set or batches")
    return count / (time.perf_counter() - start)


def compare(sides: dict[str, Callable[[], Iterable[Batch]]], batches: int, repetitions: int, tick: Callable[[], object]) -> dict[str, Any]:
    """Measures both loaders in turn. The first pair of measurements warms up the page cache and is not counted."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name in list(sides)[:: 1 if repetition % 2 else -1]:
            speeds[name].append(speed(sides[name](), batches))
        tick()
    counted = {name: values[1:] for name, values in speeds.items()}
    ratios = sorted(a / b for a, b in zip(counted["ours"], counted["webdataset"], strict=True))
    return {"ratio": statistics.median(ratios), "ratios": ratios, "samples_per_s": counted}


def waiting(root: Path, scratch: Path, batch_size: int, steps: int) -> list[float]:
    """Share of wall time that a stage-3 fit waits for data, in each interval except the first."""
    every = steps // LOGS
    folders = [f"--data.init_args.root={root}", f"--run.root={scratch}/runs", "--run.experiment=wait", "--run.stage=fit"]
    data = [f"--data.init_args.batch_size={batch_size}", "--data.init_args.num_workers=1"]
    trainer = [f"--trainer.max_steps={every * LOGS}", "--trainer.limit_val_batches=0", f"--trainer.log_every_n_steps={every}"]
    schedule = "--model.init_args.scheduler.init_args.warmup_steps=1"  # the experiment's own warm-up is longer than this run
    run_verb(scratch / "fit.log", "fit", "-c", "experiments/stage3_adapt.yaml", *folders, *data, *trainer, schedule)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(scratch / "runs/wait/fit"))
    events.Reload()
    return [event.value for event in events.Scalars("perf/data_wait_share") if event.step > every]


# ---- the report
def show(found: dict[str, Any]) -> bool:
    """Prints the table and the verdict. Returns whether both bounds hold."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="samples/s, median of repetitions")
    for column in ("what", "workers", "datamodule", "webdataset", "ratio", "lowest to highest"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in found["loaders"]:
        medians = (f"{statistics.median(row['samples_per_s'][side]):,.0f}" for side in ("ours", "webdataset"))
        spread = f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}"
        table.add_row(row["kind"], str(row["num_workers"]), *medians, f"{row['ratio']:.3f}", spread)
    console, headline = Console(), found["headline"]
    console.print(table)
    fast, fed = headline["ratio_to_webdataset"] >= LEAST_RATIO, headline["data_wait"] <= MOST_WAIT
    for good, text in (
        (fast, f"worst ratio to webdataset {headline['ratio_to_webdataset']:.3f}, required: at least {LEAST_RATIO}"),
        (fed, f"share of a stage-3 step spent waiting for data {headline['data_wait']:.4f}, required: at most {MOST_WAIT}"),
    ):
        console.print(f"{'met   ' if good else 'MISSED'} {text}", highlight=False)
    return fast and fed
