"""`plan`: makes, shows, compares and edits plans; `generate --plan FILE` generates a clip from a plan."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from baton_lightning import next_steps
from baton_lightning.arguments import Parser
from baton_lightning.generation.pretrained import folder_of
from baton_lightning.generation.run_description import require_run
from baton_lightning.verbs import plan_attention, plan_counterfactuals, plan_obey, plan_show, plan_words

if TYPE_CHECKING:
    from baton_lightning.plan.clip_plan import ClipPlan

EXAMPLES = """examples:
  python -m baton_lightning plan make --run runs/demo/stage3_joint --out plan.safetensors \\
      --video-prompt "a red circle on the left. first the red circle jumps." --audio-prompt "first a thump."
  python -m baton_lightning plan probes --run runs/demo/stage3_joint
  python -m baton_lightning plan show plan.safetensors --out plan.png
  python -m baton_lightning plan show plan.safetensors --html plan.html
  echo '{"op": "shift", "seconds": 0.5, "start": 0.3, "stop": 0.9}' > later.jsonl
  python -m baton_lightning plan edit plan.safetensors later.jsonl --out later.safetensors
  python -m baton_lightning plan attention plan.safetensors --run runs/demo/stage3_joint
  python -m baton_lightning plan diff plan.safetensors later.safetensors
  python -m baton_lightning generate --run runs/demo/stage3_joint --plan later.safetensors --out clips
  python -m baton_lightning plan obey runs/demo/stage3_joint --num 50 --json obey.json
  python -m baton_lightning plan counterfactuals runs/demo/stage3_joint --num 50
"""
SAME = 1e-6


def parser() -> argparse.ArgumentParser:
    from baton_lightning.plan import edits

    made = Parser(
        prog="python -m baton_lightning plan", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = made.add_subparsers(dest="verb", required=True, metavar="{make,show,diff,edit,attention,probes,obey,counterfactuals}")

    make = verbs.add_parser("make", help="plan a prompt, or a clip of the data set, and write the plan")
    make.add_argument("--run", type=folder_of, required=True, help="run folder of a stage 3 with a planner, or `nano`")
    make.add_argument("--out", type=Path, required=True, metavar="FILE", help="the plan, a .safetensors file")
    make.add_argument("--video-prompt", help="what is seen")
    make.add_argument("--audio-prompt", help="what is heard")
    make.add_argument("--key", help="a clip of the data set, instead of prompts, e.g. test-multi-0-000000")
    make.add_argument("--split", default="test", help="split of the data set that the clip is in (default: %(default)s)")
    make.add_argument("--truth", action="store_true", help="with --key: the plan of the clip's own features, not the planner's")
    make.add_argument("--data", type=Path, metavar="FOLDER", help="current folder of the run's data set (default: the recorded one)")
    make.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:n (default: %(default)s)")
    make.add_argument("--trust", action="append", default=[], metavar="NAME", help="package whose classes the run's configuration may name")
    make.add_argument("--force", action="store_true", help="replace --out")

    plan_show.add_show(verbs)

    diff = verbs.add_parser("diff", help="where two plans differ, and by how much")
    diff.add_argument("first", type=Path)
    diff.add_argument("second", type=Path)

    edit = verbs.add_parser(
        "edit",
        help="apply a list of operations",
        description=edits.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    edit.add_argument("plan", type=Path)
    edit.add_argument("edits", type=Path, help="JSON: a list of operations, or one a line")
    edit.add_argument("--out", type=Path, required=True, metavar="FILE", help="the edited plan")
    edit.add_argument("--force", action="store_true", help="replace --out")

    plan_attention.add_attention(verbs)
    plan_words.add_probes(verbs)
    plan_obey.add_obey(verbs)
    plan_counterfactuals.add_counterfactuals(verbs)
    return made


def make(options: argparse.Namespace) -> ClipPlan:
    """The plan of `plan make`.

    Raises:
        ValueError: If the options contradict each other, or the run has no planner although one is needed.
    """
    prompts = (options.video_prompt, options.audio_prompt)
    if options.key is None and None in prompts:
        raise ValueError("plan make: give --video-prompt and --audio-prompt, or --key for a clip of the data set")
    if options.key is not None and prompts != (None, None):
        raise ValueError("plan make: a clip of the data set has its prompts; give --key, or the two prompts")
    if options.truth and options.key is None:
        raise ValueError("plan make: --truth needs a clip of the data set: give --key")
    require_run(options.run, None)

    from baton_lightning.generation.pipeline import load

    pipe = load(options.run, device=options.device, data=options.data, trust=options.trust)
    if options.key is None:
        return pipe.plan(*prompts)
    truth, planned = pipe.held_out(options.key, options.split)
    if not options.truth and planned is None:
        raise ValueError(f"plan make: {options.run}/ has no planner; add --truth, or give the run of a joint training")
    return truth if options.truth or planned is None else planned


def differences(first: ClipPlan, second: ClipPlan) -> list[tuple[str, str, str, str]]:
    """One row per modality: number of tokens that differ, their time span in s, and the RMS difference in standard deviations of the
    training set."""
    from baton_lightning.plan.clip_plan import distance

    rows, clip = [], first.clip
    for name, apart in distance(first, second).items():
        when = clip.keyframe_times if name == "video" else clip.audio_plan_times
        step = 1 / (clip.keyframe_fps if name == "video" else clip.audio_plan_rate)
        differs = (apart.flatten(1).amax(1) if name == "video" else apart) > SAME
        where = differs.nonzero().flatten().tolist()
        span = f"{when[where[0]]:.3f} to {when[where[-1]] + step:.3f}" if where else "-"
        number = int((apart > SAME).sum())
        rows.append((name, f"{number} of {apart.numel()}", span, f"{apart.square().mean().sqrt():.4f}"))
    return rows


def require_new(out: Path, force: bool) -> None:
    """Refuses to replace an existing file without ``force``.

    Raises:
        ValueError: If the file exists and ``force`` is not set.
    """
    if os.path.lexists(out) and not force:
        raise ValueError(f"plan: {out} exists; give another --out, or --force")


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    if options.verb == "show" and options.html is None:
        options.out = options.out or options.plan.with_suffix(".png")
    if options.verb == "attention":
        options.out = options.out or options.plan.with_suffix(".attention.png")
    if options.verb in ("make", "show", "edit", "attention"):
        for out in filter(None, (options.out, getattr(options, "html", None))):
            require_new(out, options.force)
    if options.verb == "make":
        plan = make(options)
        plan.save(options.out)
        print(f"plan: {options.out}: {plan}")
        next_steps.name("generate", "--run", options.run, "--plan", options.out, "--out", f"clips/{options.out.stem}")
        return 0

    if options.verb == "show":
        return plan_show.show(options)
    if options.verb == "attention":
        return plan_attention.draw_attention(options)
    if options.verb == "probes":
        return plan_words.make_probes(options)
    if options.verb == "obey":
        return plan_obey.obey(options)
    if options.verb == "counterfactuals":
        return plan_counterfactuals.counterfactuals(options)

    from baton_lightning.plan import edits
    from baton_lightning.plan.clip_plan import ClipPlan

    if options.verb == "diff":
        from rich.console import Console
        from rich.table import Table

        table = Table("", "tokens that differ", "from, to [s]", "RMS [std]")
        second = ClipPlan.load(options.second)
        for row in differences(ClipPlan.load(options.first), second):
            table.add_row(*row)
        Console().print(table)
        next_steps.name_generation(second.run, options.second)
    else:
        plan, operations = ClipPlan.load(options.plan), edits.read(options.edits)
        others = [other_of(operation, options.edits) for operation in operations if operation.get("op") in edits.WITH_OTHER]
        edited = plan.edited(*operations, others=others)
        edited.save(options.out)
        print(f"plan: {options.out}: {edited}")
        next_steps.name("plan", "diff", options.plan, options.out)
    return 0


def other_of(operation: dict[str, object], edits: Path) -> ClipPlan:
    """Loads the other plan that an operation names. Its path is relative to the folder of the file of edits.

    Raises:
        ValueError: If the operation names no plan.
    """
    from baton_lightning.plan.clip_plan import ClipPlan

    if not isinstance(operation.get("other"), str):
        raise ValueError(f'{edits}: {operation["op"]} must name a plan, e.g. "other": "plan.safetensors"')
    return ClipPlan.load(edits.parent / str(operation["other"]))
