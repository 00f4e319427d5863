"""What a window of plan attention and the savings of sampling are worth: seconds, operations, and what they cost in P-Acc.

Three measurements on one CPU thread. What is compared is run alternately, and the median over repetitions of CPU seconds counts:

* layer: plan attention with the paper's numbers of tokens (15,004 of video, 21,870 planned) over the whole plan and in a window,
  at --width channels. Projections of the plan, which a window does not save, weigh more at a larger width, so operations at the paper's
  width of 3072 are counted beside it, of all plan layers and of a step of the whole transformer.
* step: a guided sampling step of a run, or of a tiny random transformer, with each saving of `sampler.init_args.savings`.
* P-Acc, only with --run: held-out clips of the run with and without the approximate savings, from the same noise. The run must be trained
  on the benchmark world and have its data. Kept keys and values change no clip, so they are not among them.

In the JSON, `headline` holds window_layer_speedup, cached_step_speedup (kept keys and values alone, the exact saving) and p_acc_loss (P-Acc
without minus P-Acc with --plan-every and --guided; above 0 is worse), which is left out without --run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import atomic, trust
from baton_lightning.arguments import require_at_least_one

if TYPE_CHECKING:
    from baton_lightning.clip import ClipSpec
    from baton_lightning.flow.guidance import Guidance
    from baton_lightning.flow.savings import Savings
    from baton_lightning.models.dit import DualBranchDiT

PAPER_WIDTH, HEAD = 3072, 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.epilog = (
        "examples:\n  python -m baton_lightning bench sample --json sample.json\n"
        "  python -m baton_lightning bench sample --run runs/demo/stage3_joint --plan-every 2 --guided 0.2 0.9 --num 32"
    )
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add(
        "--run", type=Path, help="finished stage-3 run whose steps are timed and whose clips are scored; default: a tiny random transformer"
    )
    add("--data", type=Path, metavar="FOLDER", help="with --run: where its data set is now (default: where it was)")
    add("--trust", action="append", default=[], type=trust.package, metavar="NAME", help="package whose code the run may name")
    add("--window", type=int, default=1, help="keyframes on either side in the layer's window (default: %(default)s)")
    add("--width", type=int, default=128, help=f"channels of the layer, a multiple of {HEAD} (default: %(default)s)")
    add("--plan-every", type=int, default=2, help="steps for which an output of plan attention is used (default: %(default)s)")
    add("--guided", type=float, nargs=2, default=[0.2, 0.9], metavar=("LOW", "HIGH"), help="guided flow times (default: 0.2 0.9)")
    add("--repetitions", type=int, default=3, help="of everything that is timed (default: %(default)s)")
    add("--num", type=int, default=16, help="with --run: held-out clips a tier (default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    """Measures, prints a table and writes the JSON."""
    require_at_least_one("bench sample", options, "repetitions", "num", "plan_every")
    if options.width < HEAD or options.width % HEAD:
        raise ValueError(f"bench sample: --width must be a positive multiple of {HEAD}, got {options.width}")

    import torch

    from baton_lightning.bench import sample_quality
    from baton_lightning.flow.savings import Savings
    from baton_lightning.models.plan_attention import PlanOptions

    torch.set_num_threads(1)  # threads that wait for each other would count as CPU seconds
    PlanOptions(window=options.window).require_valid()
    approximate = {"plan_every": options.plan_every, "guided": tuple(options.guided)}
    Savings(**approximate).require_valid()
    cases = {"in full": Savings(), "keep_projections": Savings(keep_projections=True), "one_batch": Savings(one_batch=True)}
    cases |= {name: Savings(**{name: value}) for name, value in approximate.items()}
    cases["both approximate"] = Savings(**approximate)
    loaded = sample_quality.load(options.run, options.data, options.trust) if options.run else None
    model = loaded[0] if loaded else sample_quality.tiny()
    found: dict[str, Any] = {"layer": layer(options), "operations": operations(options.window)}
    found["step"] = steps(model.dit, model.guidance, model.clip, model.sampler.steps, cases, options.repetitions)
    headline = {"window_layer_speedup": found["layer"]["speedup"], "cached_step_speedup": found["step"]["keep_projections"]["speedup"]}
    if loaded:
        scored = {name: cases[name] for name in ("in full", *approximate, "both approximate")}
        found["p_acc"] = sample_quality.p_acc(*loaded, scored, options.num)
        headline["p_acc_loss"] = found["p_acc"]["both approximate"]["loss"]
    found = {"headline": headline} | found
    if options.json:
        atomic.write_text(options.json, json.dumps(found, indent=1) + "\n")
    show(found, options)
    return 0


def layer(options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of plan attention over the whole plan and in a window, at the paper's numbers of tokens."""
    import torch

    from baton_lightning.bench.gpu_work import PAPER
    from baton_lightning.models.attention import KeyValueSource
    from baton_lightning.models.conditions import windows_of_grids
    from baton_lightning.models.patches import VideoPatches
    from baton_lightning.models.plan_attention import PlanAttention, PlanOptions

    made = PlanAttention(options.width, options.width // HEAD)
    patches = VideoPatches(1, 1, (1, 1, 1), PAPER.video_latent_rate)
    asked, times = PlanOptions(timestamps=True, window=options.window), torch.tensor(PAPER.keyframe_times)
    windows = windows_of_grids(PAPER.video_plan_grid, times, PAPER.num_keyframes, asked, patches, [PAPER.token_grid])
    tokens, planned = (torch.randn(1, n, options.width) for n in (PAPER.num_video_tokens, PAPER.num_video_planned))

    @torch.no_grad()
    def forward(source: KeyValueSource) -> None:
        made(tokens, None, source)

    whole, part = KeyValueSource(planned), KeyValueSource(planned, windows=windows)
    seconds = alternately({"whole": lambda: forward(whole), "window": lambda: forward(part)}, options.repetitions)
    return {"width": options.width, "window": options.window, "seconds": seconds, "speedup": seconds["whole"] / seconds["window"]}


def operations(window: int) -> dict[str, Any]:
    """Floating-point operations of the whole transformer at the paper's size, with and without a window."""
    import torch

    from baton_lightning.bench.gpu_work import PAPER, inputs
    from baton_lightning.estimate.footprint import forward_flops
    from baton_lightning.models.dit import DualBranchDiT
    from baton_lightning.models.plan_attention import PlanOptions

    given = inputs(PAPER, "meta")

    def of(plan: PlanOptions | None) -> int:
        counts = []
        for depth in (1, 2):
            with torch.device("meta"):
                dit = DualBranchDiT(PAPER, width=PAPER_WIDTH, depth=depth, plan_attention=plan)
            counts.append(forward_flops(lambda dit=dit: given.forward(dit)))  # type: ignore[misc]
        return counts[0] + 29 * (counts[1] - counts[0])

    none, whole, part = (of(plan) for plan in (None, PlanOptions(timestamps=True), PlanOptions(timestamps=True, window=window)))
    return {
        "step_without_plan": none,
        "step": whole,
        "step_with_window": part,
        "step_ratio": whole / part,
        "plan_layers_ratio": (whole - none) / (part - none),
    }


def steps(
    dit: DualBranchDiT, guidance: Guidance, clip: ClipSpec, num_steps: int, cases: dict[str, Savings], repetitions: int
) -> dict[str, Any]:
    """CPU seconds of a sampling step of one clip with random texts and plan, averaged over a sampling, for each case."""
    import torch

    from baton_lightning.bench.gpu_work import inputs
    from baton_lightning.flow.condition import Condition
    from baton_lightning.flow.sampler import EulerSampler

    given = inputs(clip, "cpu")
    positive = Condition(given.context, given.context, given.plan)
    negative = Condition(*(torch.zeros_like(given.context) for _ in range(2)))

    def sample(savings: Savings) -> None:
        EulerSampler(num_steps, 1.0)(guidance(dit, positive, negative, savings=savings), *given.noise)

    timed = {name: case for name, case in cases.items() if not (case.one_batch and guidance.skip_block is not None)}
    seconds = alternately({name: lambda case=case: sample(case) for name, case in timed.items()}, repetitions)  # type: ignore[misc]
    return {name: {"seconds": s / num_steps, "speedup": seconds["in full"] / s} for name, s in seconds.items()}


def alternately(calls: dict[str, Callable[[], None]], repetitions: int) -> dict[str, float]:
    """Median CPU seconds of each call, after one that is not counted; the calls take turns, so that all see the same load."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repetitions + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints the figures."""
    from rich.console import Console
    from rich.table import Table

    part, flops = found["layer"], found["operations"]
    table = Table("what", "without", "with", "ratio", title="sampling: CPU seconds, operations, P-Acc")
    for column in table.columns[1:]:
        column.justify = "right"
    whole, window = part["seconds"]["whole"], part["seconds"]["window"]
    table.add_row(
        f"plan attention, width {part['width']}, window {part['window']}", f"{whole:.2f} s", f"{window:.2f} s", f"{part['speedup']:.2f}x"
    )
    counts = (f"{flops[name] / 1e15:.3f} P" for name in ("step", "step_with_window"))
    table.add_row("operations of a forward pass at the paper's size", *counts, f"{flops['step_ratio']:.2f}x")
    full = found["step"]["in full"]["seconds"]
    for name, row in found["step"].items():
        if name != "in full":
            table.add_row(f"step, {name}", f"{full:.3f} s", f"{row['seconds']:.3f} s", f"{row['speedup']:.2f}x")
    for name, row in found.get("p_acc", {}).items():
        if name != "in full":
            cells = (f"{x:.3f}" for x in (found["p_acc"]["in full"]["mean"], row["mean"]))
            table.add_row(f"P-Acc, {name}", *cells, f"loss {row['loss']:+.3f} ± {row['error']:.3f}")
    Console().print(table)
    for name, value in found["headline"].items():
        print(f"headline.{name} {value:.4f}")
    if options.run is None:
        print("headline.p_acc_loss is left out: it needs --run, a run trained on the benchmark world")
