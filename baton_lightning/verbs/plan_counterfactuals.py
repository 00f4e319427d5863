"""`plan counterfactuals` measures whether plan and clip of a run change where a prompt does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.arguments import require_at_least_one
from baton_lightning.generation.pretrained import folder_of
from baton_lightning.generation.run_description import require_run
from baton_lightning.verbs.plan_obey import cell

EDITS = ("colour", "order", "speaker", "word")
DESCRIPTION = """Plans and generates pairs of held-out prompts that differ in one respect, each pair with the same noise. The benchmark
world's detectors read the clips.

    colour   an object gets another colour, and with it another voice
    order    two consecutive events are exchanged
    speaker  an utterance is given to another object
    word     one word is replaced

The hit rate is the share of pairs whose second clip shows what the edit made, over the pairs whose first clip shows what the edit changes.
`others kept` is the share of all other facts of the first clip (objects, columns, events, sounds, moments within 0.1 s, nothing else
seen or heard) that still hold in the second. `plan inside` is the share of the squared change of the planned tokens that lies in
the place and time where the two true clips differ, and `plan area` is the share of the plan that this is."""


def add_counterfactuals(verbs: Any) -> None:
    """Adds the parser of `plan counterfactuals`."""
    made = verbs.add_parser(
        "counterfactuals",
        help="measure whether plan and clip change where a prompt does, and nowhere else",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=folder_of, help="run folder of a stage 3 with a planner, or `nano`")
    made.add_argument("--edits", default=",".join(EDITS), help="edits, separated by commas (default: %(default)s)")
    made.add_argument("--num", type=int, default=50, help="pairs of each edit (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write rates, intervals and every pair")
    made.add_argument("--batch-size", type=int, default=16, help="clips generated together (default: %(default)s)")
    made.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:n (default: %(default)s)")
    made.add_argument("--trust", action="append", default=[], metavar="NAME", help="package whose code the run may name")
    made.add_argument("--force", action="store_true", help="replace the JSON file")


def counterfactuals(options: argparse.Namespace) -> int:
    """Runs `plan counterfactuals`.

    Raises:
        ValueError: If an edit is unknown, the JSON file exists, or the run has no planner.
    """
    edits = list(dict.fromkeys(name.strip() for name in options.edits.split(",")))
    if unknown := [name for name in edits if name not in EDITS]:
        raise ValueError(f"plan counterfactuals: --edits must be of {', '.join(EDITS)}, got {unknown[0]!r}")
    require_at_least_one("plan counterfactuals", options, "num", "batch_size")
    if options.json is not None and options.json.exists() and not options.force:
        raise ValueError(f"plan counterfactuals: {options.json} is there; give another --json, or --force")
    require_run(options.run, None)

    from baton_lightning.generation.counterfactuals import measure
    from baton_lightning.generation.pipeline import load

    pipe = load(options.run, device=options.device, trust=options.trust)
    found = measure(pipe, edits, options.num, seed=options.seed, batch_size=options.batch_size)
    show(found["edits"], f"{options.run.name}, scenes of seed {options.seed}")
    if options.json is not None:
        head = {"run": str(options.run), "scenes_seed": options.seed, "seed": pipe.generator.model.seed}
        atomic.write_text(options.json, json.dumps(head | found, indent=1))
        print(f"plan: {options.json}")
    return 0


def show(edits: dict[str, Any], title: str) -> None:
    """Prints the rates as a table of 80 columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *edits, title=f"prompts that differ in one respect, mean and 95 % interval\n{title}", width=80)
    table.add_row("pairs", *(str(entry["num"]) for entry in edits.values()))
    table.add_row("not in first clip", *(str(entry["not_in_first_clip"]) for entry in edits.values()))
    for label, name in (("hit rate", "hit"), ("others kept", "kept"), ("plan inside", "plan_inside"), ("plan area", "plan_area")):
        table.add_row(label, *(cell(entry[name], "{:.2f}").replace(" [", "\n[") for entry in edits.values()))
    Console(width=80).print(table)
