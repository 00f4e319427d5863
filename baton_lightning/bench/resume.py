"""Comparison of a killed and resumed run with an uninterrupted one: both must have identical ledgers and identical weights.

A stage is trained on a small set of the benchmark world, on CPUs in float32. The first run is not interrupted. In a second run, all
processes get SIGKILL as soon as the ledger reaches a randomly drawn step, and the same command resumes the run. This is repeated several
times. ``--repeats`` kills further runs at other steps. Parents of the stage are trained beforehand for a few steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.bench import resume_settings
from baton_lightning.bench.resume_case import Case, first_difference, log
from baton_lightning.launch.processes import call, kill_at
from baton_lightning.runs import manifest
from baton_lightning.runs.ledgers import NAME as LEDGER


def prove(case: Case) -> dict[str, Any]:
    """Runs a case.

    Returns:
        Settings and results of the case; ``first_difference`` is ``None`` if the runs are identical.

    Raises:
        RuntimeError: If a run failed, or ended before it could be killed.
    """
    case.prepare()
    name = f"{case.stage}-{case.strategy}-{case.ranks}"
    whole = f"{name}-whole"
    shutil.rmtree(case.work / "runs" / whole, ignore_errors=True)
    started = time.monotonic()
    command = case.command(whole)
    call(command, case.output_file, case.ranks)
    log(f"uninterrupted: {case.steps} steps in {time.monotonic() - started:.0f} s")
    reached, difference = [], None
    for repeat, steps in enumerate(case.kill_steps):
        killed = f"{name}-killed-{repeat}"
        shutil.rmtree(case.work / "runs" / killed, ignore_errors=True)
        again = case.command(killed)
        reached.append([kill_at(again, case.output_file, case.ranks, case.run(killed) / LEDGER, step) for step in steps])
        call(again, case.output_file, case.ranks)
        found = first_difference(case.run(whole), case.run(killed))
        log(f"killed when the ledger had {reached[-1]} steps, resumed to the end: {found or 'identical'}")
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
    add("--seed", type=int, default=0, help="seed of the steps at which runs are killed (default: %(default)s)")
    add("--workers", type=int, default=0, help="data loader workers per rank (default: %(default)s)")
    add("--data", type=Path, metavar="ROOT", help="a cached data set (default: a new one of the benchmark world)")
    add(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder to keep data set, parents and runs in; existing ones are reused (default: a temporary folder)",
    )
    add("--experiments", type=Path, default=Path("experiments"), help="folder of the experiment files (default: %(default)s)")
    add("--settings", action="store_true", help="test instead the settings: change one at a time between the kill and the resume of stage1")
    add("--json", type=Path, metavar="FILE", help="write the results as JSON; `headline` holds identical and first_difference")


def main(options: argparse.Namespace) -> int:
    """Runs all combinations of the options and prints a table. The exit code is 1 if there is a difference."""
    from rich.console import Console
    from rich.table import Table

    sys.warnoptions.append("ignore:resource_tracker")  # it warns about semaphores of the killed processes
    if options.settings:
        return resume_settings.main(options)
    chosen = list(product(options.stage, options.strategy, options.ranks))
    rest = {name: getattr(options, name) for name in ("steps", "kills", "repeats", "seed", "workers", "data", "experiments")}
    with tempfile.TemporaryDirectory(prefix="bench-resume-") as scratch:
        work = (options.work or Path(scratch)).resolve()
        cases = [Case(work, stage, strategy, ranks, **rest) for stage, strategy, ranks in chosen]
        found = []
        for number, case in enumerate(cases, 1):
            log(f"{number}/{len(cases)}: {case.stage}, {case.strategy}, ranks: {case.ranks}")
            found.append(prove(case))
    differences = [f"{c['stage']}, {c['strategy']}, ranks: {c['ranks']}: {c['first_difference']}" for c in found if c["first_difference"]]
    headline = {"identical": not differences, "first_difference": next(iter(differences), None)}
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("deepspeed", *manifest.PACKAGES)}}
    if options.json:
        command = shlex.join(["python", "-m", "baton_lightning", *sys.argv[1:]])
        text = json.dumps({"headline": headline, "command": command, "versions": versions, "cases": found}, indent=1)
        atomic.write_text(options.json, text + "\n")
    table = Table(title="killed runs compared with an uninterrupted run")
    for column in ("stage", "strategy", "ranks", "steps", "killed at steps", "seconds", "ledger and weights"):
        table.add_column(column)
    for row in found:
        killed = "; ".join(", ".join(map(str, steps)) for steps in row["ledger_at_kill"])
        verdict = f"DIFFERENT: {row['first_difference']}" if row["first_difference"] else "identical"
        table.add_row(row["stage"], row["strategy"], str(row["ranks"]), str(row["steps"]), killed, f"{row['seconds']:.0f}", verdict)
    Console().print(table)
    return 0 if headline["identical"] else 1
