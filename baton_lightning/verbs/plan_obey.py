"""`plan obey` measures how clips of a run obey edits of their plans."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.arguments import require_at_least_one
from baton_lightning.generation.run_description import require_run

EDITS = ("shift", "swap", "splice")
DESCRIPTION = """Measures whether clips obey edits of their plans. Held-out prompts with several events are planned, and the plan
is edited. Clips of both plans are generated with the same noise. The benchmark world's detectors read them.

    shift    one event, in picture and sound, is moved by +0.5 s, or -0.5 s where there is no room after it; the clip obeys if the event is
             moved by this within 0.1 s in picture and sound
    swap     two columns of the picture are exchanged; the clip obeys if the objects are in their new columns
    splice   from the last event on, the sound is that of another plan; the clip obeys if exactly these sounds are heard, within 0.1 s

The hit rate is over the clips whose unedited version shows what the edit moves. `kept` is the share of all other facts of the unedited clip
(objects, columns, events, sounds, moments within 0.1 s, nothing else seen or heard) that still hold in the edited clip."""


def add_obey(verbs: Any) -> None:
    """Adds the parser of `plan obey`."""
    obey = verbs.add_parser(
        "obey",
        help="measure how clips obey edits of their plans",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    obey.add_argument("run", type=Path, help="run folder of a stage 3")
    obey.add_argument("--edits", default=",".join(EDITS), help="edits, separated by commas (default: %(default)s)")
    obey.add_argument("--num", type=int, default=50, help="prompts of each edit (default: %(default)s)")
    obey.add_argument("--plan", choices=("truth", "planned"), help="plans to edit (default: planned, if the run has a planner)")
    obey.add_argument("--split", default="test", help="part of the data set with the prompts (default: %(default)s)")
    obey.add_argument("--json", type=Path, metavar="FILE", help="write rates, intervals and every clip")
    obey.add_argument("--seed", type=int, help="seed of the noise (default: the run's)")
    obey.add_argument("--batch-size", type=int, default=16, help="clips generated together (default: %(default)s)")
    obey.add_argument("--data", type=Path, metavar="FOLDER", help="where the run's data set is now (default: where it was)")
    obey.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:n (default: %(default)s)")
    obey.add_argument("--trust", action="append", default=[], metavar="NAME", help="package whose code the run may name")
    obey.add_argument("--force", action="store_true", help="replace the JSON file")


def obey(options: argparse.Namespace) -> int:
    """Runs `plan obey`.

    Raises:
        ValueError: If an edit is unknown, the JSON file exists, or run and data set do not fit.
    """
    edits = list(dict.fromkeys(name.strip() for name in options.edits.split(",")))
    if unknown := [name for name in edits if name not in EDITS]:
        raise ValueError(f"plan obey: --edits must be of {', '.join(EDITS)}, got {unknown[0]!r}")
    require_at_least_one("plan obey", options, "num", "batch_size")
    if options.json is not None and options.json.exists() and not options.force:
        raise ValueError(f"plan obey: {options.json} is there; give another --json, or --force")
    require_run(options.run, None)

    from baton_lightning.generation import obedience
    from baton_lightning.generation.pipeline import load
    from baton_lightning.stages.plan_sources import PlannedTokens

    pipe = load(options.run, device=options.device, data=options.data, trust=options.trust)
    truth = options.plan == "truth" or (options.plan is None and not isinstance(pipe.generator.model.plan, PlannedTokens))
    if options.seed is not None:
        pipe.generator.model.seed = options.seed
    found = obedience.measure(pipe, edits, options.num, split=options.split, truth=truth, batch_size=options.batch_size)
    source = "truth" if truth else "planned"
    show(found["edits"], f"{options.run.name}: {source} plans, {options.split} prompts")
    if options.json is not None:
        head = {"run": str(options.run), "plan": source, "split": options.split, "seed": pipe.generator.model.seed}
        atomic.write_text(options.json, json.dumps(head | found, indent=1))
        print(f"plan: {options.json}")
    return 0


def show(edits: dict[str, Any], title: str) -> None:
    """Prints the rates as a table of 80 columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *edits, title=f"obedience, mean and 95 % interval\n{title}", width=80)
    table.add_row("clips", *(str(entry["num"]) for entry in edits.values()))
    table.add_row("not in unedited clip", *(str(entry["not_in_unedited_clip"]) for entry in edits.values()))
    table.add_row("hit rate", *(cell(entry["hit"], "{:.2f}") for entry in edits.values()))
    for name in ("picture", "sound"):
        table.add_row(f"{name} moved [ms]", *(cell(entry[f"{name}_shift_ms"], "{:.0f}") for entry in edits.values()))
    table.add_row("other facts kept", *(cell(entry["kept"], "{:.2f}") for entry in edits.values()))
    most = [", ".join(f"{name} {count}" for name, count in list(entry["changed"].items())[:3]) or "-" for entry in edits.values()]
    table.add_row("most changed", *most)
    Console(width=80).print(table)


def cell(entry: dict[str, Any] | None, form: str) -> str:
    """``mean [low, high]``, or a dash if there is no value."""
    if entry is None or entry["mean"] is None:
        return "-"
    return "{} [{}, {}]".format(*(form.format(entry[name]) for name in ("mean", "low", "high")))
