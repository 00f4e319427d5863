"""`demo`: the whole chain on a machine without a GPU, from an empty folder to generated mp4s with sound and a page.

The steps form a graph. A step starts when the steps that it depends on are done. Two steps run in parallel with one thread each, because
on a small machine two processes with one thread are faster than one process with two threads. A step whose result exists is not run
again, so an interrupted demo continues where it stopped.

    data -> encode -> stage1 -> stage2 -------\\
                 \\--> stage3_adapt -----------> stage3_joint -> generate (once per condition) -> report
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from baton_lightning import WORKBENCH, next_steps
from baton_lightning.arguments import Parser
from baton_lightning.launch.launcher import Launcher, Step

TWO_PROCESSES = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")


def plan_steps(out: Path, data: Path, experiments: Path, *, clips: int) -> list[Step]:
    """Steps of the demo with their paths and dependencies.

    Args:
        out: Folder of the runs, logs and clips.
        data: Folder of the data set.
        experiments: Folder of the experiment files.
        clips: Held-out prompts per tier and condition.
    """
    overrides = [f"--run.root={out.parent}", f"--run.experiment={out.name}", f"--data.init_args.root={data}"]

    def fit(stage: str) -> list[str]:
        return ["fit", "-c", str(experiments / f"{stage}.yaml"), *overrides]

    joint = out / "stage3_joint"
    weights = {"data": 20, "encode": 50, "stage3_adapt": 300, "stage1": 260, "stage2": 50, "stage3_joint": 60}  # about seconds, for the bar
    steps = [
        Step("data", ["shards", "world", str(data)], data / "index.json"),
        Step("encode", ["predict", "-c", str(experiments / "encode.yaml"), *overrides, *TWO_PROCESSES], data / "cache.json", ("data",)),
        Step("stage3_adapt", fit("stage3_adapt"), out / "stage3_adapt" / "manifest.json", ("encode",)),
        Step("stage1", fit("stage1"), out / "stage1" / "manifest.json", ("encode",)),
        Step("stage2", fit("stage2"), out / "stage2" / "manifest.json", ("stage1",)),
        Step("stage3_joint", fit("stage3_joint"), joint / "manifest.json", ("stage2", "stage3_adapt")),
    ]
    steps = [replace(step, weight=weights[step.name]) for step in steps]
    conditions = [("planned", out / "samples")] + [(c, out / "controls" / c) for c in ("shuffled", "none", "truth", "ceiling")]
    for plan, folder in conditions:
        argv = ["generate", "--run", str(joint), "--plan", plan, "--num", str(clips), "--out", str(folder), "--save-plans", "--force"]
        steps.append(Step(f"generate-{plan}", argv, folder / "scores.json", ("stage3_joint",), weight=20))
    return steps


def main(argv: list[str]) -> int:
    parser = Parser(prog="python -m baton_lightning demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="data folder (default: %(default)s)")
    parser.add_argument("--experiments", type=Path, help="folder of the stage files (default: experiments, else the library's own)")
    parser.add_argument("--clips", type=int, default=32, help="held-out prompts per tier and condition (default: %(default)s)")
    options = parser.parse_args(argv)

    if options.experiments is None:
        options.experiments = Path("experiments")
        if not options.experiments.exists() and WORKBENCH.is_dir():
            options.experiments = WORKBENCH / "experiments"
            print(f"demo: stage files of the installed library: {options.experiments}")
    if not (options.experiments / "stage1.yaml").exists():
        raise ValueError(f"demo: no stage files in {options.experiments}/; run it in the root of a checkout or give --experiments")
    launcher = Launcher(plan_steps(options.out, options.data, options.experiments, clips=options.clips), options.out / "logs")
    if not launcher.run_or_report():
        return 130

    from baton_lightning.launch import report

    report.write(options.out, options.data, seconds=launcher.times)
    report.show(options.out, launcher.console)
    next_steps.name("try", "--run", options.out / "stage3_joint")
    return 0
