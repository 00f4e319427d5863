"""`report`: writes one page of clips, scores and stages that needs no server: everything is in one file of less than 10 MB.

FOLDER is one of
  an experiment, e.g. runs/demo    clips of samples/ and controls/, and all stages
  a run, e.g. runs/demo/stage3_joint    clips of its evaluation/, and the run with its parents
  a folder of clips    k.mp4, with k.json, scores.json and k.plan.safetensors where they exist

The page compares one prompt under all plans, plays the worst, the best and random clips with plan, spectrogram and events on one time axis,
and explains every score. A clip that cannot be read is named on the page. `evaluate` scores clips and writes the same page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from baton_lightning import next_steps
from baton_lightning.arguments import Parser, require_at_least_one
from baton_lightning.names import counted


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m baton_lightning report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="experiment, run, or folder of clips")
    parser.add_argument("--clips", type=int, default=24, help="clips on the page, of all tabs together (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: FOLDER/index.html)")
    options = parser.parse_args(argv)
    require_at_least_one("report", options, "clips")

    from baton_lightning.evaluation.report.page import write_page

    page = write_page(options.folder, options.clips, out=options.out)
    for note in page.notes:
        print(f"report: not shown: {note}", file=sys.stderr)
    if page.headline:
        print(page.headline)
    print(f"wrote {page.file} with {counted(page.num_clips, 'clip')}")
    next_steps.name_page(page.file)
    return 0
