"""`evaluate`: scores clips of the benchmark world, of any model, from pixels and waveform alone.

FOLDER holds k.mp4 with k.json beside it. The JSON holds `scene`, as `generate` writes it, or only `video_prompt` and `audio_prompt` in the
world's language: the events and their schedule follow from these. Pictures may have any size and frame rate, sound any rate from
14 kHz on and any number of channels; a file without sound counts as silent.

It leaves scores.json (each clip with what is wrong with it, and each tier with mean, 95 % interval and count), scores.png, and
index.html: players, prompts and the failing facts marked, worst clips first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from baton_lightning.arguments import Parser, require_at_least_one


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m baton_lightning evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder with k.mp4 and k.json (with --run: where they go)")
    parser.add_argument(
        "--run", type=Path, help="finished stage-3 run whose clips are generated first; FOLDER is then RUN/evaluation by default"
    )
    parser.add_argument("--num", type=int, default=8, help="with --run: held-out prompts a tier (default: %(default)s)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="with --run: package whose code the run may name")
    parser.add_argument("--page-clips", type=int, default=24, help="clips on the page, the worst ones (default: %(default)s)")
    options = parser.parse_args(argv)
    require_at_least_one("evaluate", options, "num", "page_clips")
    if options.folder is None and options.run is None:
        raise ValueError("evaluate: give a FOLDER of clips, or --run and the run whose clips shall be generated and scored")

    from rich.console import Console

    from baton_lightning.evaluation.page import write_page
    from baton_lightning.evaluation.plots import draw_scores
    from baton_lightning.evaluation.scores import score_folder, show

    folder = options.folder or options.run / "evaluation"
    if options.run is not None:
        from baton_lightning.verbs import generate

        trusted = [word for name in options.trust for word in ("--trust", name)]
        generate.main(["--run", str(options.run), "--num", str(options.num), "--out", str(folder), "--force", *trusted])
    result = score_folder(folder)
    show(result, Console())
    draw_scores(folder / "scores.png", result["tiers"])
    write_page(folder, result, options.page_clips)
    print(f"wrote {folder / 'scores.json'}, scores.png and index.html")
    return 0
