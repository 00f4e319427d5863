"""`plan attention` draws what the latents of a clip read in its plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from baton_lightning.generation.pretrained import folder_of
from baton_lightning.generation.run_description import require_run

DESCRIPTION = """Generates the clip of a plan, mixes its latents with their noise again, and evaluates the transformer once. The picture
has a matrix for every block: how much a latent frame (row) reads of each keyframe (column), and the same for sound; means over heads. Below
are the keyframes as one video token reads them."""


def add_attention(verbs: Any) -> None:
    """Adds the parser of `plan attention`."""
    drawn = verbs.add_parser("attention", help="draw what a clip reads in its plan, block by block", description=DESCRIPTION)
    drawn.add_argument("plan", type=Path)
    drawn.add_argument("--run", type=folder_of, required=True, help="run folder of a stage 3, or `nano`")
    drawn.add_argument("--out", type=Path, metavar="PNG", help="the picture (default: beside the plan, PLAN.attention.png)")
    drawn.add_argument("--seed", type=int, help="seed of the noise (default: the run's)")
    drawn.add_argument("--time", type=float, default=0.5, help="flow time, above 0 (clean) and at most 1 (noise) (default: %(default)s)")
    drawn.add_argument(
        "--patch",
        type=int,
        nargs=3,
        metavar=("FRAME", "ROW", "COLUMN"),
        help="the video token drawn below, counted from 0 (default: the middle)",
    )
    drawn.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:n (default: %(default)s)")
    drawn.add_argument(
        "--trust", action="append", default=[], metavar="NAME", help="package whose classes the run's configuration may name"
    )
    drawn.add_argument("--force", action="store_true", help="replace the picture")


def draw_attention(options: argparse.Namespace) -> int:
    """Runs `plan attention`.

    Raises:
        ValueError: If the plan does not match the run, or the run's transformer has no layers of the plan's own.
    """
    from baton_lightning.plan.clip_plan import ClipPlan

    plan = ClipPlan.load(options.plan)
    require_run(options.run, None)
    from baton_lightning.generation.pipeline import load

    found = load(options.run, device=options.device, trust=options.trust).attention(plan, seed=options.seed, t=options.time)
    found.save_png(options.out, None if options.patch is None else tuple(options.patch))
    print(f"plan: {plan}\nplan: picture {options.out}")
    return 0
