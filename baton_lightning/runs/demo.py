"""`demo`: the whole chain on a bare CPU machine, from an empty folder to generated mp4s with sound and a report.

The steps form a graph. A step starts when those it needs are done; two run side by side, one thread each, because on a small
machine two processes with one thread are faster than one process with two. A step whose result exists is not run again, so an
interrupted demo goes on where it stopped.

    data -> encode -> stage1 -> stage2 -------\\
                 \\--> stage3_adapt -----------> stage3_joint -> generate (one a condition) -> report
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

TWO_PROCESSES = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
PLAN_SCALE = "2"  # guidance on the plan
PR_SET_PDEATHSIG = 1  # linux/prctl.h
COUNT = re.compile(r"(\d+)/(\d+)")


@dataclass
class Step:
    """One command of the demo.

    Args:
        name: What the user reads, also the log's name.
        argv: Arguments of ``python -m baton_lightning``.
        done: File whose existence says that the step is finished.
        needs: Names of the steps that must be done before.
    """

    name: str
    argv: list[str]
    done: Path
    needs: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    seconds: float = field(default=0.0)


def last_count(log: Path) -> tuple[int, int] | None:
    """The last ``n/total`` that a progress bar wrote to the log."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        found = COUNT.findall(file.read().decode(errors="replace"))
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def die_with_parent() -> None:
    """Run in a step's process: ask Linux to end it should the demo itself be killed, so that no step runs twice."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Conductor:
    """Runs steps in order of need, ``slots`` at a time, and shows where they stand."""

    def __init__(self, steps: list[Step], logs: Path, *, slots: int = 2) -> None:
        self.steps = {step.name: step for step in steps}
        self.logs, self.slots = logs, slots
        self.console = Console()
        self.times = self._read_times()

    def _read_times(self) -> dict[str, float]:
        file = self.logs / "seconds.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def _start(self, step: Step) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with (self.logs / f"{step.name}.log").open("ab") as log:
            step.process = subprocess.Popen(
                [sys.executable, "-m", "baton_lightning", *step.argv],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        step.started = time.monotonic()
        self.console.print(
            f"[cyan]start[/]  {step.name:<16} python -m baton_lightning {' '.join(step.argv)}", highlight=False, soft_wrap=True
        )

    def _finish(self, step: Step) -> None:
        assert step.process is not None
        step.seconds = time.monotonic() - step.started
        if step.process.returncode or not step.done.exists():
            log = self.logs / f"{step.name}.log"
            tail = "\n".join(log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()[-12:])
            raise RuntimeError(f"step {step.name} failed with exit code {step.process.returncode}; the end of {log}:\n{tail}")
        self._note(step)
        self.console.print(f"[green]done[/]   {step.name:<16} {step.seconds:6.0f} s", highlight=False)

    def _note(self, step: Step) -> None:
        """Adds a step's time to what it took in earlier, interrupted runs."""
        self.times[step.name] = round(self.times.get(step.name, 0.0) + time.monotonic() - step.started, 1)
        (self.logs / "seconds.json").write_text(json.dumps(self.times, indent=1))

    def stop(self) -> None:
        """Asks every running step to stop, and waits."""
        for step in self.steps.values():
            if step.process is not None and step.process.poll() is None:
                os.killpg(step.process.pid, signal.SIGTERM)
                self._note(step)
        for step in self.steps.values():
            if step.process is not None:
                try:
                    step.process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(step.process.pid, signal.SIGKILL)

    def run(self) -> None:
        """Runs all steps.

        Raises:
            RuntimeError: If a step fails; the others are stopped.
        """
        finished = {name for name, step in self.steps.items() if step.done.exists()}
        for name in sorted(finished, key=list(self.steps).index):
            self.console.print(f"[green]kept[/]   {name:<16} {self.steps[name].done}", highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description:<16}"),
            BarColumn(30),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
        )
        bars: dict[str, TaskID] = {}
        spoken = time.monotonic()
        try:
            with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
                while len(finished) < len(self.steps):
                    running = [s for s in self.steps.values() if s.process is not None and s.name not in finished]
                    for step in running:
                        if step.process is not None and step.process.poll() is not None:
                            self._finish(step)
                            finished.add(step.name)
                            progress.remove_task(bars.pop(step.name))
                        elif count := last_count(self.logs / f"{step.name}.log"):
                            progress.update(bars[step.name], completed=count[0], total=max(count[1], 1))
                    running = [s for s in running if s.name not in finished]
                    for step in self.steps.values():
                        ready = step.process is None and step.name not in finished and finished.issuperset(step.needs)
                        if ready and len(running) < self.slots:
                            self._start(step)
                            bars[step.name] = progress.add_task(step.name, total=1)
                            running.append(step)
                    if not self.console.is_terminal and time.monotonic() - spoken > 30:
                        spoken = time.monotonic()
                        counts = {s.name: last_count(self.logs / f"{s.name}.log") for s in running}
                        self.console.print("  ".join(f"{n} {c[0]}/{c[1]}" if c else n for n, c in counts.items()), highlight=False)
                    time.sleep(0.2)
        finally:
            self.stop()


def plan_steps(out: Path, data: Path, experiments: Path, *, clips: int) -> list[Step]:
    """The demo's graph, with every path a user may want to look at."""
    overrides = [f"--run.root={out.parent}", f"--run.experiment={out.name}", f"--data.init_args.root={data}"]

    def fit(stage: str) -> list[str]:
        return ["fit", "-c", str(experiments / f"{stage}.yaml"), *overrides]

    joint = out / "stage3_joint"
    steps = [
        Step("data", ["shards", "world", str(data)], data / "index.json"),
        Step("encode", ["predict", "-c", str(experiments / "encode.yaml"), *overrides, *TWO_PROCESSES], data / "cache.json", ("data",)),
        Step("stage3_adapt", fit("stage3_adapt"), out / "stage3_adapt" / "manifest.json", ("encode",)),
        Step("stage1", fit("stage1"), out / "stage1" / "manifest.json", ("encode",)),
        Step("stage2", fit("stage2"), out / "stage2" / "manifest.json", ("stage1",)),
        Step("stage3_joint", fit("stage3_joint"), joint / "manifest.json", ("stage2", "stage3_adapt")),
    ]
    conditions = [("planned", out / "samples")] + [(c, out / "controls" / c) for c in ("shuffled", "none", "truth", "ceiling")]
    for plan, folder in conditions:
        argv = ["generate", "--run", str(joint), "--plan", plan, "--num", str(clips), "--plan-scale", PLAN_SCALE, "--out", str(folder)]
        steps.append(Step(f"generate-{plan}", argv, folder / "scores.json", ("stage3_joint",)))
    return steps


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m baton_lightning demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="data folder (default: %(default)s)")
    parser.add_argument("--experiments", type=Path, default=Path("experiments"), help="folder of the stage files (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=32, help="held-out prompts a tier and condition (default: %(default)s)")
    options = parser.parse_args(argv)

    if not (options.experiments / "stage1.yaml").exists():
        raise ValueError(f"demo: no stage files in {options.experiments}/; run it in the root of a checkout or give --experiments")
    logs = options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    conductor = Conductor(plan_steps(options.out, options.data, options.experiments, clips=options.clips), logs)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        conductor.run()
    except KeyboardInterrupt:
        conductor.console.print("\ninterrupted; run the same command again to go on", highlight=False)
        return 130

    from baton_lightning.runs import report

    report.write(options.out, options.data, seconds=conductor.times)
    report.show(options.out, conductor.console)
    return 0


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
