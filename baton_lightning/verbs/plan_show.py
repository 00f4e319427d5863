"""`plan show` draws a plan, tells it in words, and writes its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import next_steps

if TYPE_CHECKING:
    from baton_lightning.plan.agreement import Neighbour
    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.plan.probes import Probes

DESCRIPTION = """Draws a plan: keyframes in the colours of their principal components, sound as a curve. If the run has probes (see `plan
probes`), a table tells its objects, events, moments, speakers and words, and where they differ from its prompts. With --html, one page that
needs no server has all of this on one time axis, with the keyframes decoded to pictures and the audio tokens to a sound that can be played;
with --truth also the error of every token, R2 and cosine by keyframe and second; with --data the nearest training clips."""


def add_show(verbs: Any) -> None:
    """Adds the parser of `plan show`."""
    shown = verbs.add_parser("show", help="draw a plan, tell in words what it says, write its page", description=DESCRIPTION)
    shown.add_argument("plan", type=Path)
    shown.add_argument("--truth", type=Path, metavar="PLAN", help="a second plan, drawn beside with the error of every token")
    shown.add_argument("--out", type=Path, metavar="PNG", help="the picture (default: beside the plan; none with --html)")
    shown.add_argument("--html", type=Path, metavar="FILE", help="write the page of the plan")
    shown.add_argument("--probes", type=Path, metavar="FILE", help="probes that read the plan (default: those of the run that made it)")
    shown.add_argument("--data", type=Path, metavar="FOLDER", help="with --html: data set whose nearest training clips are listed")
    shown.add_argument("--trust", action="append", default=[], metavar="NAME", help="with --data: package whose classes the run may name")
    shown.add_argument("--force", action="store_true", help="replace the picture and the page")


def show(options: argparse.Namespace) -> int:
    """Runs `plan show`.

    Raises:
        ValueError: If the plans, the probes or the data set do not fit.
    """
    from rich.console import Console

    from baton_lightning.plan.clip_plan import ClipPlan
    from baton_lightning.plan.words import words_of

    if options.data is not None and options.html is None:
        raise ValueError("plan show: --data lists the nearest training clips on the page; give --html FILE")
    plan = ClipPlan.load(options.plan)
    truth = None if options.truth is None else ClipPlan.load(options.truth)
    probes, lacking = probes_of(plan, options.probes)
    print(f"plan: {plan}")
    if options.out is not None:
        plan.save_png(options.out, truth, None if probes is None else probes.pictures(plan))
        print(f"plan: picture {options.out}")
    if options.html is not None:
        write_page(plan, truth, probes, lacking, options)
        print(f"plan: page {options.html}")
    if lacking:
        print(lacking)
    if probes is not None:
        Console().print(words_of(plan, probes))
    next_steps.name_generation(plan.run, options.plan)
    return 0


def probes_of(plan: ClipPlan, file: Path | None) -> tuple[Probes | None, str]:
    """The probes that read a plan, and what they lack, with the command that makes it.

    Args:
        plan: The plan.
        file: File of the probes; ``None`` = that of the run that made the plan.

    Raises:
        ValueError: If the file is damaged, or a given one does not exist.
    """
    from baton_lightning.plan.probes import Probes
    from baton_lightning.plan.words import NoProbes, made_by, probes_of_run

    try:
        probes = Probes.load(file) if file else probes_of_run(plan.run)
    except NoProbes as error:
        return None, str(error)
    if probes.decoder is not None:
        return probes, ""
    again = made_by(Path(plan.run) if plan.run else None, "--force")
    return probes, f"plan: to decode it to pictures, make its probes again: {again}"


def write_page(plan: ClipPlan, truth: ClipPlan | None, probes: Probes | None, lacking: str, options: argparse.Namespace) -> None:
    """Writes the page, with notes on what it lacks."""
    from baton_lightning.evaluation.report.plan_page import write_plan_page

    notes = [lacking.removeprefix("plan: ")] if lacking else []
    if truth is None:
        notes.append("to show the truth beside it, give --truth PLAN, made by `plan make --key KEY --truth`")
    if options.data is None:
        notes.append("to list the nearest training clips, give --data FOLDER")
    neighbours = None if options.data is None else nearest_clips(plan, options.data, options.trust)
    write_plan_page(plan, options.html, options.plan.name, truth=truth, probes=probes, neighbours=neighbours, notes=notes)


def nearest_clips(plan: ClipPlan, data: Path, trust: list[str]) -> list[Neighbour]:
    """Clips of the training split whose plans are nearest.

    Raises:
        ValueError: If the run that made the plan is not known or not there, or the plan or the data set does not fit it.
    """
    from baton_lightning.generation.pipeline import load
    from baton_lightning.generation.probing import true_plans
    from baton_lightning.generation.run_description import require_run
    from baton_lightning.plan.agreement import nearest

    if not plan.run:
        raise ValueError("plan show: --data needs the run that made the plan, and the plan names none; leave out --data")
    require_run(Path(plan.run), None)
    pipe = load(plan.run, device="cpu", data=data, trust=trust)
    plan.require_fits(pipe.generator.model.clip, pipe.statistics)
    return nearest(plan, true_plans(pipe, "train"))
