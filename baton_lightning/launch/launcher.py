"""Runs commands with dependencies in parallel: a step starts when the steps that it depends on are done.

A step is one command of `python -m baton_lightning` and a file that exists once the step is finished. A finished step is not run again,
so interrupted work continues where it stopped. Every step gets one thread, because on a small machine two processes with one thread each
are faster than one process with two threads.
"""

from __future__ import annotations

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

from baton_lightning import next_steps

PR_SET_PDEATHSIG = 1  # linux/prctl.h
COUNT = re.compile(r"(\d+)/(\d+)")
STEPS = re.compile(r"steps: [^\r\n]*?(\d+)/(\d+)")
"""A count of any progress bar, and that of a training run's optimiser steps."""


@dataclass
class Step:
    """One command in the graph of steps.

    Args:
        name: Name shown to the user; also the name of the log file.
        argv: Arguments of ``python -m baton_lightning``.
        done: File that exists once the step is finished.
        needs: Names of the steps that must be finished before this one starts.
        weight: Share of the step in the whole work, in any unit.
        process: Process of the step once it has started.
        started: Start time on the monotonic clock, in s.
        seconds: Duration of the finished step, in s.
    """

    name: str
    argv: list[str]
    done: Path
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    seconds: float = field(default=0.0)


def last_count(log: Path) -> tuple[int, int] | None:
    """The last ``n/total`` that a progress bar wrote to the log. A validation's own count is not that of its training run."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        tail = file.read().decode(errors="replace")
    found = STEPS.findall(tail) or ([] if "Validation" in tail else COUNT.findall(tail))
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def time_left(share: float, first: float, seconds: float) -> str:
    """Text of the time that the rest takes at the rate so far; empty as long as too little is done to tell.

    Args:
        share: Share of the work that is done.
        first: Share that was done at the start.
        seconds: Time since the start, in s.
    """
    if share - first < 0.02:
        return ""
    minutes = seconds * (1 - share) / (share - first) / 60
    return f"about {max(round(minutes), 1)} min left" if share < 1 else ""


def die_with_parent() -> None:
    """Asks Linux to terminate the calling process when its launcher dies, so that no step runs twice. Called in the step's process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Launcher:
    """Runs steps in the order of their dependencies and shows their progress.

    Args:
        steps: The steps.
        logs: Folder of the log files and of ``seconds.json``, the durations of the steps.
        slots: Maximum number of steps that run at the same time.
    """

    def __init__(self, steps: list[Step], logs: Path, *, slots: int = 2) -> None:
        self.steps = {step.name: step for step in steps}
        self.logs, self.slots = logs, slots
        logs.mkdir(parents=True, exist_ok=True)
        self.console = Console()
        self.times = self._read_times()

    def _read_times(self) -> dict[str, float]:
        file = self.logs / "seconds.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def _start(self, step: Step) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", next_steps.STARTED_BY_CHAIN: "1"}
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
        """Adds the step's duration to that of its earlier, interrupted runs."""
        self.times[step.name] = round(self.times.get(step.name, 0.0) + time.monotonic() - step.started, 1)
        (self.logs / "seconds.json").write_text(json.dumps(self.times, indent=1))

    def stop(self) -> None:
        """Terminates every running step and waits for it. A step that has not exited after 20 s is killed."""
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

    def share(self, finished: set[str]) -> float:
        """Share of the whole work that is done, from 0 to 1.

        Args:
            finished: Names of the finished steps.
        """
        done = 0.0
        for step in self.steps.values():
            count = last_count(self.logs / f"{step.name}.log") if step.process is not None and step.name not in finished else None
            done += step.weight * (1.0 if step.name in finished else min(count[0] / max(count[1], 1), 1.0) if count else 0.0)
        return done / sum(step.weight for step in self.steps.values())

    def run(self) -> None:
        """Runs all steps.

        Raises:
            RuntimeError: If a step fails. The other steps are stopped.
        """
        finished = {name for name, step in self.steps.items() if step.done.exists()}
        for name in sorted(finished, key=list(self.steps).index):
            self.console.print(f"[green]kept[/]   {name:<16} {self.steps[name].done}", highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description:<16}"),
            BarColumn(24),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        bars: dict[str, TaskID] = {}
        began = spoken = time.monotonic()
        first = self.share(finished)
        try:
            with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
                whole = progress.add_task("all steps", total=100, left="")
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
                            bars[step.name] = progress.add_task(step.name, total=1, left="")
                            running.append(step)
                    share = self.share(finished)
                    left = time_left(share, first, time.monotonic() - began)
                    progress.update(whole, completed=100 * share, left=left)
                    if not self.console.is_terminal and time.monotonic() - spoken > 30:
                        spoken = time.monotonic()
                        counts = {s.name: last_count(self.logs / f"{s.name}.log") for s in running}
                        shown = [f"{name} {c[0]}/{c[1]}" if c else name for name, c in counts.items()]
                        self.console.print("  ".join([f"{share:4.0%}", *shown, *([left] if left else [])]), highlight=False)
                    time.sleep(0.2)
        finally:
            self.stop()

    def run_or_report(self) -> bool:
        """Runs all steps. Prints a message and returns ``False`` if interrupted or terminated."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self.run()
        except KeyboardInterrupt:
            self.console.print("\ninterrupted; repeat the command to continue", highlight=False)
            return False
        return True
