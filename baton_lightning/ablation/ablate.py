"""`ablate`: runs a suite of ablations: trains missing stages, generates and scores clips, writes the report.

    python -m baton_lightning ablate experiments/suites/key_rows.yaml

Rows share stages: a run's folder is named after a digest of its settings and parents, so nothing is trained twice. An interrupted suite
resumes. `--seeds` selects seeds, e.g. one per task of a Slurm array (`--sbatch` prints such a script).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from baton_lightning.ablation import evidence
from baton_lightning.ablation import suite as suites
from baton_lightning.ablation.suite import Suite, read_suite
from baton_lightning.arguments import Parser, require_at_least_one
from baton_lightning.launch.launcher import Launcher
from baton_lightning.runs import manifest

SBATCH = """\
#!/bin/bash
#SBATCH --job-name=ablate-{name}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={jobs}
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={out}/logs/%x-%A_%a.out

# One task per seed. A requeued task resumes where it stopped. Build the data first, so that no two tasks build it:
#   {data}
# and write the report when all tasks have ended:
#   {report}
set -euo pipefail
cd {folder}
seeds=({seeds})
srun {command} --seeds "${{seeds[$SLURM_ARRAY_TASK_ID]}}"
"""


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m baton_lightning ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("suite", type=Path, help="suite file, e.g. experiments/suites/key_rows.yaml")
    made.add_argument("--out", type=Path, help="folder of runs, clips and logs (default: runs/<name of the suite>)")
    made.add_argument("--report", type=Path, metavar="DIR", help="folder of evidence.json, .md and .png (default: <out>/report)")
    made.add_argument("--seeds", type=int, nargs="+", metavar="N", help="only these of the suite's seeds")
    made.add_argument("--rows", nargs="+", metavar="ROW", help="only these of the suite's rows")
    made.add_argument("--jobs", type=int, default=2, help="parallel processes, one thread each (default: %(default)s)")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="list all steps and which of them are done; run nothing")
    what.add_argument("--only-report", action="store_true", help="write the report from existing results; run nothing")
    what.add_argument("--only-data", action="store_true", help="make and cache the data, train nothing")
    what.add_argument("--sbatch", action="store_true", help="print a Slurm script with one task per seed")
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    suite = read_suite(options.suite)
    evidence.require_claims(suite)
    if unknown := sorted(set(options.rows or ()) - {row.name for row in suite.rows}):
        raise ValueError(f"ablate: --rows must be among {', '.join(row.name for row in suite.rows)} ({options.suite}), got {unknown[0]!r}")
    if options.rows:
        suite = replace(suite, rows=tuple(row for row in suite.rows if row.name in options.rows))
    out = options.out or Path("runs") / options.suite.stem
    seeds = tuple(options.seeds or suite.seeds)
    if absent := sorted(set(seeds) - set(suite.seeds)):
        raise ValueError(f"ablate: --seeds must be among {', '.join(map(str, suite.seeds))} ({options.suite}), got {absent[0]}")
    require_at_least_one("ablate", options, "jobs")
    if options.sbatch:
        print(sbatch(suite, out, options.jobs), end="")
        return 0

    from rich.console import Console

    console = Console()
    steps = suites.steps(suite, out, seeds, Path("experiments"))
    if options.only_data:
        steps = [step for step in steps if step.name in ("data", "encode")]
    if options.dry_run:
        for step in steps:
            state = "done " if step.done.exists() else "to do"
            console.print(f"{state}  {step.name:<28} {' '.join(step.argv)}", soft_wrap=True, highlight=False)
        console.print(f"{len(steps)} steps, {sum(step.done.exists() for step in steps)} of them done")
        return 0
    launcher = Launcher(steps, out / "logs", slots=options.jobs)
    if not options.only_report and not launcher.run_or_report():
        return 130
    if not options.only_data:
        show(suite, out, options.report or out / "report", seeds, launcher)
    return 0


def show(suite: Suite, out: Path, report: Path, seeds: tuple[int, ...], launcher: Launcher) -> None:
    """Writes the report and prints its headline."""
    from rich.table import Table

    command = shlex.join(["python", "-m", "baton_lightning", "ablate", str(suite.path)])
    seconds = {name: launcher.times[name] for name in launcher.steps if name in launcher.times}  # excludes the times of an earlier suite
    manifests = [step.done for step in launcher.steps.values() if step.done.name == manifest.NAME]
    found = evidence.write(suite, out, report, seeds, command, seconds, manifests)
    known = {(row["name"], row["tier"], row["score"]): row for row in found["rows"]}
    tiers = list(dict.fromkeys(row["tier"] for row in found["rows"]))
    table = Table(title="P-Acc: mean over seeds [95 % interval]")
    table.add_column("row")
    for tier in tiers:
        table.add_column(tier, justify="right")
    for row in suite.rows:
        table.add_row(row.title, *(evidence.cell(known.get((row.name, tier, "p_acc"))) for tier in tiers))
    launcher.console.print(table)
    kept = [claim["holds"] for claim in found["claims"]]
    if kept:
        launcher.console.print(f"claims: {kept.count(True)} hold, {kept.count(False)} do not, {kept.count(None)} not measured")
    launcher.console.print(f"report   {report}/evidence.md, evidence.json, evidence.png", highlight=False, soft_wrap=True)


def sbatch(suite: Suite, out: Path, jobs: int) -> str:
    """A Slurm array script with one task per seed."""
    command = [sys.executable, "-m", "baton_lightning", "ablate", str(suite.path), "--out", str(out)]
    return SBATCH.format(
        name=suite.path.stem,
        last=len(suite.seeds) - 1,
        jobs=jobs,
        out=out,
        data=shlex.join([*command, "--only-data"]),
        report=shlex.join([*command, "--only-report"]),
        folder=shlex.quote(str(Path.cwd())),
        seeds=" ".join(map(str, suite.seeds)),
        command=shlex.join([*command, "--jobs", str(jobs)]),
    )
