"""`plan probes` trains probes of a run's feature space; `plan show` uses them to tell in words what a plan says, and to decode it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from baton_lightning.generation.pretrained import folder_of
from baton_lightning.generation.run_description import require_run

PROBES = """Trains probes that read objects, columns, events, moments, speakers and words from planned tokens, and a decoder from
keyframes to small pictures, on the training split of the run's data set, which must be of the benchmark world. It takes about a minute on
one core. The result lies in the run's folder, where `plan show` looks for it. The accuracy on the validation split is printed: the share
of the facts of its scenes that the probes find in the ground-truth plans, and the PSNR of the decoded keyframes; with --planned also of
the plans of the run's planner."""


def add_probes(verbs: Any) -> None:
    """Adds the parser of `plan probes`."""
    probes = verbs.add_parser(
        "probes", help="train probes, with which `plan show` tells a plan in words and decodes it", description=PROBES
    )
    probes.add_argument("--run", type=folder_of, required=True, help="run folder of a stage 3, or an export of one with --data")
    probes.add_argument("--out", type=Path, metavar="FILE", help="the probes (default: RUN/probes.safetensors)")
    probes.add_argument("--planned", action="store_true", help="also read the planner's plans of the validation prompts")
    probes.add_argument("--data", type=Path, metavar="FOLDER", help="where the run's data set is now (default: where it was)")
    probes.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda or cuda:n (default: %(default)s)")
    probes.add_argument("--trust", action="append", default=[], metavar="NAME", help="package whose code the run may name")
    probes.add_argument("--force", action="store_true", help="replace the probes")


def make_probes(options: argparse.Namespace) -> int:
    """Runs `plan probes`.

    Raises:
        ValueError: If the probes exist already, or the run or its data set do not fit.
    """
    require_run(options.run, None)

    from baton_lightning.generation import probing
    from baton_lightning.generation.pipeline import load
    from baton_lightning.plan.probes import NAME

    out: Path = options.out or options.run / NAME
    if out.exists() and not options.force:
        raise ValueError(f"plan probes: {out} is there; give another --out, or --force")
    pipe = load(options.run, device=options.device, data=options.data, trust=options.trust)
    if options.planned:
        pipe.require_planner()
    probes = probing.train(pipe)
    found = probing.accuracy(pipe, probes)
    out.parent.mkdir(parents=True, exist_ok=True)
    probes.save(out, accuracy=f"{found.share:.4f}", psnr=f"{found.psnr:.2f}", clips=found.clips)
    print(f"plan: {out}")
    print(f"plan: of {sum(found.facts.values())} facts of {found.clips} val clips, {found.share:.1%} are read from their own features")
    missed = {name: found.facts[name] - right for name, right in found.right.items() if right < found.facts[name]}
    if missed:
        print(f"plan: missed: {', '.join(f'{name} {count} of {found.facts[name]}' for name, count in sorted(missed.items()))}")
    print(f"plan: keyframes are decoded from their own features with a PSNR of {found.psnr:.1f} dB")
    if options.planned:
        planned = probing.accuracy(pipe, probes, planned=True)
        print(f"plan: of the same facts, {planned.share:.1%} are read from the planner's plans")
        print(f"plan: keyframes are decoded from the planner's plans with a PSNR of {planned.psnr:.1f} dB")
    return 0
