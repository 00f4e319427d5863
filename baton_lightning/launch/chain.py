"""`chain`: runs the stages of a chain file in order, here or as SLURM jobs with dependencies, and shows the status of each.

A finished stage is not run again. A run that was interrupted is resumed. A stage is refused if its parent changed afterwards or if it was
trained with other settings; the message says what differs. Options that this verb does not know are passed to every stage.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from baton_lightning import next_steps, settings
from baton_lightning.arguments import Parser
from baton_lightning.launch import jobs, slurm
from baton_lightning.launch.grid import tasks, with_own_folder
from baton_lightning.launch.jobs import Job
from baton_lightning.launch.record import Record, numbers_of, working
from baton_lightning.launch.resources import add_resources, add_tasks, task_words
from baton_lightning.launch.stage import Stage, Status
from baton_lightning.launch.status import read_chain, statuses
from baton_lightning.launch.verdict import REFUSED


def require_matching_run(stage: Stage, status: Status) -> None:
    """Refuses a stage whose existing run is not the one that the chain describes.

    Raises:
        ValueError: If the stage is stale, damaged or of other settings. The message names the difference.
    """
    if status.state in REFUSED:
        raise ValueError(
            f"chain: {stage.folder}/ is {status.state}: {status.why}; delete that folder to train the stage again, or give another "
            "--run.experiment"
        )


def home(stages: dict[str, Stage]) -> Path:
    """Folder of the experiment, ``<root>/<experiment>``."""
    return next(iter(stages.values())).folder.parent


def run(stages: dict[str, Stage], words: list[str]) -> int:
    """Runs the unfinished stages, one process per stage.

    Returns:
        0, or the exit code of the first stage that failed.

    Raises:
        ValueError: If a stage is stale, damaged, of other settings, already running or already queued.
    """
    record = Record(home(stages))
    for name, stage in stages.items():
        work = working(stages, record)
        status = statuses(stages, work)[name]
        require_matching_run(stage, status)
        if status.state in ("running", "queued"):
            raise ValueError(f"chain: {name} is {status.state} already ({work[name]}); wait for it, or end it first")
        if status.state == "finished":
            print(f"chain: {name} is finished", flush=True)
            continue
        command = ["-m", "baton_lightning", stage.verb, "-c", str(stage.config), *words]
        print(f"chain: {name} ({status}): python {shlex.join(command)}", flush=True)
        if code := wait_for(record, stage, [sys.executable, *command]):
            print(f"chain: {name} ended with exit code {code}; repeat the command to continue from there", file=sys.stderr)
            return code
        if not stage.record.exists():
            print(f"chain: {name} ended without {stage.record}", file=sys.stderr)
            return 1
    next_steps.name_after_run(list(stages.values())[-1].folder)
    return 0


def wait_for(record: Record, stage: Stage, command: list[str]) -> int:
    """Runs a stage's process until it exits. SIGTERM is forwarded to it, and SIGINT is ignored here because the stage receives it too."""
    process = subprocess.Popen(command, env=os.environ | {next_steps.STARTED_BY_CHAIN: "1"})
    record.note(stage, pid=process.pid, host=socket.gethostname())
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                continue  # the terminal sends SIGINT to the stage as well
    finally:
        signal.signal(signal.SIGTERM, before)
        record.note(stage)
    return code if code >= 0 else 128 - code


@dataclass
class Element:
    """One array task, or the whole chain if there is no array: its stages, and the processes and jobs that run them.

    Args:
        index: Index of the array task; ``None`` without an array.
        stages: Stages with the settings of this task.
        record: Record of this task's experiment.
    """

    index: int | None
    stages: dict[str, Stage]
    record: Record

    def update_status(self, queue: Mapping[str, Job], *, ended: bool = False) -> None:
        """Updates ``work``, the process or job of each stage, and ``statuses``.

        Args:
            queue: Jobs in the SLURM queue, by id.
            ended: Whether ``work`` also contains jobs that have ended.
        """
        named = {} if self.index is not None else {slurm.name_of(s.folder, s.folder.parent.name): s for s in self.stages.values()}
        self.work = working(self.stages, self.record, named, queue=queue, ended=ended)
        self.statuses = statuses(self.stages, self.work)

    def parents(self, name: str, submitted: dict[str, str]) -> tuple[str, ...]:
        """Dependencies of a stage in SLURM's notation, e.g. ``afterok:12``.

        Args:
            name: Name of the stage.
            submitted: Stage -> id of the submitted job or array task of this element.
        """
        found: dict[str, list[str]] = {}
        for other in self.stages[name].after:
            if number := submitted.get(other):
                array, _, task = number.partition("_")
                own = bool(task) and task == str(self.index) and self.stages[name].verb == "fit"
                found.setdefault("aftercorr" if own else "afterok", []).append(array if own else number)
        return tuple(f"{kind}:{':'.join(numbers)}" for kind, numbers in found.items())


def elements(chain: Path, words: list[str], options: argparse.Namespace) -> list[Element]:
    """The chain as one element, or one element per array task."""
    stages = read_chain(chain, words)
    variants = [with_own_folder(task, home(stages).name) for task in tasks(options.grid, options.array)]
    if not variants:
        return [Element(None, stages, Record(home(stages)))]
    every = [read_chain(chain, [*words, *variant]) for variant in variants]
    return [Element(index, own, Record(home(own))) for index, own in enumerate(every)]


def queue_of(every: Sequence[Element]) -> dict[str, Job]:
    """Jobs of all elements that are in the SLURM queue, by id, from a single query."""
    for element in every:
        element.record.read()
    return jobs.queue(number for element in every for number in numbers_of(element.stages, element.record).values())


def submit(chain: Path, words: list[str], options: argparse.Namespace, written_by: str) -> int:
    """Submits the unfinished stages as jobs with dependencies. Each array task waits for its own parents only, and a failed task is
    resubmitted alone.

    Raises:
        ValueError: If a stage of any task is stale, damaged or of other settings, a local process runs one, or sbatch fails.
    """
    every = elements(chain, words, options)
    with ExitStack() as stack:
        records = {element.record.path: element.record for element in every}
        for path in sorted(records):
            stack.enter_context(records[path].held())
        queue = queue_of(every)
        for element in every:
            element.update_status(queue)
            for name, stage in element.stages.items():
                require_matching_run(stage, element.statuses[name])
        submitted: list[dict[str, str]] = [{} for _ in every]
        for name, stage in every[0].stages.items():
            shared = stage.verb == "predict"
            asked = every[:1] if shared else every
            due = [element for element in asked if is_due(element, name, submitted[every.index(element)])]
            groups: dict[tuple[str, ...], list[Element]] = {}
            for element in due:
                parents = element.parents(name, submitted[every.index(element)])
                if shared:  # a shared stage waits for the parents of all tasks
                    parents = tuple(sorted({p for e, own in zip(every, submitted, strict=True) for p in e.parents(name, own)}))
                groups.setdefault(parents, []).append(element)
            for parents, group in groups.items():
                numbers = send(group, name, words, options, written_by, parents)
                for element, number in zip(group, numbers, strict=True):
                    submitted[every.index(element)][name] = number
            if shared:
                for other in submitted[1:]:
                    other |= {name: submitted[0][name]} if name in submitted[0] else {}
    return 0


def is_due(element: Element, name: str, submitted: dict[str, str]) -> bool:
    """Whether a stage has to be submitted. If not, prints the reason and adds the existing job to ``submitted``.

    Raises:
        ValueError: If a local process runs the stage.
    """
    stage, status, job = element.stages[name], element.statuses[name], element.work.get(name)
    which = name if element.index is None or stage.verb == "predict" else f"{name} of task {element.index}"
    if status.state == "finished":
        print(f"chain: {which} is finished")
        return False
    if job is None or not job.busy:
        return True
    if job.number.startswith("pid"):
        raise ValueError(f"chain: {which} is {status.state} as a process, and a SLURM job cannot depend on a process ({job}); wait for it")
    submitted[name] = job.number
    print(f"chain: {which} is {status.state} already: job {job}{element.record.other_settings(stage)}")
    return False


def send(
    group: Sequence[Element], name: str, words: list[str], options: argparse.Namespace, written_by: str, parents: tuple[str, ...]
) -> list[str]:
    """Submits a stage for elements with the same dependencies. Returns the id of each element's job or array task."""
    stage, dependency = group[0].stages[name], ",".join(parents) or None
    indices = [element.index for element in group if element.index is not None] if stage.verb == "fit" else []
    chosen = options if indices else argparse.Namespace(**vars(options) | {"grid": [], "array": None})
    text, asked, folders = slurm.script(
        stage.verb, [str(stage.config)], words, chosen, written_by=written_by, dependency=dependency, indices=indices or None
    )
    if options.dry_run:
        print(text)
        return [f"<{name}>" for _ in group]
    number = slurm.sbatch(text, asked)
    numbers = [f"{number}_{index}" for index in indices] or [number]
    job = slurm.name_of(folders[0], settings.folder(settings.read([stage.config], words)).parent.name)
    for element, own in zip(group, numbers, strict=True):
        element.record.note(element.stages[name], job=own, log=slurm.log_of(asked, job, own))
    print(f"chain: {name} is job {number}{f', {dependency}' if dependency else ''}", flush=True)
    return numbers


def status(every: list[Element]) -> int:
    """Prints the status of every stage."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", 160)))
    ended: list[str] = []
    queue = queue_of(every)
    for element in every:
        element.update_status(queue, ended=True)
        print(f"{element.record.path.parent}/")  # printed separately, as a table would truncate a long title
        table = Table()
        for column in ("stage", "state", "step", "loss", "digest", "last checkpoint", "job"):
            table.add_column(column, justify="right" if column in ("step", "loss") else "left", no_wrap=column == "stage")
        for name, current in element.statuses.items():
            job = element.work.get(name, Job(""))
            over = bool(job.number) and not job.busy
            table.add_row(
                name,
                f"{current}: {current.why}" if current.why else str(current),
                "" if current.step is None else f"{current.step:,}",
                "" if current.loss is None else f"{current.loss:.4f}",
                current.digest[:12],
                current.checkpoint,
                f"{job.number} {job.state or 'has ended'}" if over else current.job,
            )
            if over:
                log = element.record.of(element.stages[name]).get("log", "no log is known")
                ended.append(f"{name}: job {job.number} {job.state or 'has ended'} ({log}){f': {job.reason}' if job.reason else ''}")
        console.print(table)
    for line in ended:
        print(line)
    return 0


def parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    made = Parser(prog="python -m baton_lightning chain", description=__doc__, formatter_class=shape, allow_abbrev=False)
    verbs = made.add_subparsers(dest="what", required=True)
    for name, text in (
        ("run", "run the unfinished stages here, one process per stage; stops at the first failure and returns its exit code"),
        ("status", "print a table with the status of every stage"),
        ("submit", "submit SLURM jobs that depend on each other (afterok; aftercorr between arrays); job ids are stored in chain.json"),
    ):
        sub = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("file", type=Path, help="the chain, e.g. experiments/chain.yaml: `name: {config: stage1.yaml, after: [names]}`")
        if name == "submit":
            add_resources(sub)
            sub.add_argument("--dry-run", action="store_true", help="print the scripts, submit nothing")
        elif name == "status":
            add_tasks(sub)
    return made


def main(argv: list[str]) -> int:
    options, words = parser().parse_known_args(argv)
    if options.what == "run":
        return run(read_chain(options.file, words), words)
    if options.what == "status":
        return status(elements(options.file, words, options))
    if not options.dry_run:
        next_steps.name("chain", "status", options.file, *words, *task_words(options))
    return submit(options.file, words, options, shlex.join(["python", "-m", "baton_lightning", "chain", *argv]))
