"""`chain`: the stages of a file one after the other, here or as SLURM jobs that wait for each other, and where each stands.

A finished stage is not run again; a run that was stopped goes on; a stage whose parent was changed afterwards, or that was made with other
settings, is refused and the message says what differs. Words that this verb does not know go to every stage.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.launch import slurm
from baton_lightning.launch.status import REFUSED, Stage, Status, read_chain, statuses

RECORD = "chain.json"
QUEUE = {"PENDING": "queued", "REQUEUED": "queued", "RUNNING": "running", "COMPLETING": "running", "CONFIGURING": "running"}


class Record:
    """``<root>/<experiment>/chain.json``: the process or the job that works on a stage.

    Args:
        stages: The chain.

    Raises:
        ValueError: If the file is damaged.
    """

    def __init__(self, stages: dict[str, Stage]) -> None:
        self.path = next(iter(stages.values())).folder.parent / RECORD
        self.stages: dict[str, dict[str, Any]] = {}
        if not self.path.exists():
            return
        try:
            self.stages = json.loads(self.path.read_bytes())["stages"]
            if not all({"pid", "host"} <= entry.keys() or "job" in entry or not entry for entry in self.stages.values()):
                raise ValueError("an entry has neither job nor pid and host")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"chain: {self.path} is damaged ({error}); it only says who works on which stage: delete it once nobody does"
            ) from error

    def note(self, name: str, **entry: Any) -> None:
        """Writes down who works on a stage; nothing means nobody."""
        self.stages[name] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.path, json.dumps({"stages": self.stages}, indent=1))

    @property
    def jobs(self) -> dict[str, str]:
        return {name: entry["job"] for name, entry in self.stages.items() if "job" in entry}

    def busy(self) -> dict[str, str]:
        """Stage -> running or queued."""
        found = {name: "running" for name, entry in self.stages.items() if "pid" in entry and alive(entry)}
        queue = squeue() if self.jobs else {}
        return found | {name: queue[job] for name, job in self.jobs.items() if job in queue}


def alive(entry: dict[str, Any]) -> bool:
    """Whether a process still works on the stage, as far as this machine can tell."""
    if entry["host"] != socket.gethostname():
        return False
    try:
        return b"baton_lightning" in Path(f"/proc/{entry['pid']}/cmdline").read_bytes()
    except OSError:
        return False


def squeue() -> dict[str, str]:
    """Job -> running or queued, of this user's jobs; empty where there is no SLURM.

    Raises:
        ValueError: If SLURM does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    done = subprocess.run(["squeue", "--noheader", "--me", "--format=%F %T"], capture_output=True, text=True)
    if done.returncode:  # taking its silence for an empty queue, a job would be submitted twice
        raise ValueError(f"chain: squeue does not say which jobs there are ({done.stderr.strip()}); try again once it does")
    lines = done.stdout.splitlines()
    found: dict[str, str] = {}
    for job, _, state in (line.strip().partition(" ") for line in lines):
        if state in QUEUE and found.get(job) != "running":  # one running task makes a running array
            found[job] = QUEUE[state]
    return found


def require_sound(stage: Stage, status: Status) -> None:
    """Refuses to build on a run that is not the one the chain asks for.

    Raises:
        ValueError: Naming what differs.
    """
    if status.state in REFUSED:
        raise ValueError(
            f"chain: {stage.folder}/ is {status.state}: {status.why}; delete that folder to train the stage again, or give another "
            "--run.experiment"
        )


def run(stages: dict[str, Stage], words: list[str]) -> int:
    """Runs what is due, one process a stage.

    Returns:
        0, or the exit code of the first stage that failed.

    Raises:
        ValueError: If a stage is stale, of other settings, or somebody works on it already.
    """
    record = Record(stages)
    for name, stage in stages.items():
        status = statuses(stages, record.busy(), record.jobs)[name]
        require_sound(stage, status)
        if status.state in ("running", "queued"):
            raise ValueError(f"chain: {name} is {status.state} already ({record.stages[name]}); wait for it, or end it first")
        if status.state == "finished":
            print(f"chain: {name} is finished", flush=True)
            continue
        command = ["-m", "baton_lightning", stage.verb, "-c", str(stage.config), *words]
        print(f"chain: {name} ({status}): python {shlex.join(command)}", flush=True)
        if code := wait_for(record, name, [sys.executable, *command]):
            print(f"chain: {name} ended with exit code {code}; the same command goes on from there", file=sys.stderr)
            return code
        if not stage.record.exists():
            print(f"chain: {name} ended without {stage.record}", file=sys.stderr)
            return 1
    return 0


def wait_for(record: Record, name: str, command: list[str]) -> int:
    """Runs a stage's process to its end, whoever asks this one to stop: it stops by itself, and says how."""
    process = subprocess.Popen(command)
    record.note(name, pid=process.pid, host=socket.gethostname())
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                continue  # the terminal told the stage as well
    finally:
        signal.signal(signal.SIGTERM, before)
        record.note(name)
    return code if code >= 0 else 128 - code


def submit(stages: dict[str, Stage], chain: Path, words: list[str], options: argparse.Namespace, written_by: str) -> int:
    """Submits what is due as jobs that wait for each other; a stage of an array waits for its own task of the parent's array.

    Raises:
        ValueError: If a stage of any task is stale or of other settings, a process works on one, or sbatch refuses.
    """
    experiment = next(iter(stages.values())).folder.parent.name
    variants = [slurm.with_own_folder(task, experiment) for task in slurm.tasks(options.grid, options.array)]
    record = Record(stages)
    every = [read_chain(chain, [*words, *variant]) for variant in variants] or [stages]
    found = [statuses(variant, record.busy(), record.jobs) for variant in every]
    jobs: dict[str, str] = {}
    for name, stage in stages.items():
        for variant, status in zip(every, found, strict=True):
            require_sound(variant[name], status[name])
        if all(status[name].state == "finished" for status in found):
            print(f"chain: {name} is finished")
            continue
        if busy := record.busy().get(name):
            if name not in record.jobs:
                raise ValueError(f"chain: {name} is {busy} as a process, which no job can wait for ({record.stages[name]}); wait for it")
            jobs[name] = record.jobs[name]
            print(f"chain: {name} is {busy} already: {record.stages[name]}")
            continue
        array = bool(variants) and stage.verb == "fit"
        kinds: dict[str, list[str]] = {}
        for other in stage.after:
            if jobs.get(other):
                kinds.setdefault("aftercorr" if array and stages[other].verb == "fit" else "afterok", []).append(jobs[other])
        dependency = ",".join(f"{kind}:{':'.join(ids)}" for kind, ids in kinds.items()) or None
        chosen = options if array else argparse.Namespace(**vars(options) | {"grid": [], "array": None})
        text, asked, _ = slurm.script(stage.verb, [str(stage.config)], words, chosen, written_by=written_by, dependency=dependency)
        if options.dry_run:
            jobs[name] = f"<{name}>"
            print(text)
            continue
        jobs[name] = slurm.sbatch(text, asked)
        record.note(name, job=jobs[name])
        print(f"chain: {name} is job {jobs[name]}{f', {dependency}' if dependency else ''}", flush=True)
    return 0


def status(stages: dict[str, Stage]) -> int:
    """Prints where every stage stands."""
    from rich.console import Console
    from rich.table import Table

    record = Record(stages)
    table = Table(title=str(record.path.parent))
    for column in ("stage", "state", "step", "loss", "digest", "last checkpoint", "job"):
        table.add_column(column, justify="right" if column in ("step", "loss") else "left", no_wrap=column == "stage")
    for name, current in statuses(stages, record.busy(), record.jobs).items():
        table.add_row(
            name,
            f"{current}: {current.why}" if current.why else str(current),
            "" if current.step is None else f"{current.step:,}",
            "" if current.loss is None else f"{current.loss:.4f}",
            current.digest[:12],
            current.checkpoint,
            current.job,
        )
    Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", 160))).print(table)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m baton_lightning chain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = made.add_subparsers(dest="what", required=True)
    for name, text in (
        ("run", "run what is due here, one process a stage; stops at the first that fails, with its exit code"),
        ("status", "a table of where every stage stands"),
        ("submit", "SLURM jobs that wait for each other (afterok; aftercorr between arrays); ids are kept in chain.json"),
    ):
        sub = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("file", type=Path, help="the chain, e.g. experiments/chain.yaml: `name: {config: stage1.yaml, after: [names]}`")
        if name == "submit":
            slurm.add_resources(sub)
            sub.add_argument("--dry-run", action="store_true", help="print the scripts, submit nothing")
    return made


def main(argv: list[str]) -> int:
    options, words = parser().parse_known_args(argv)
    stages = read_chain(options.file, words)
    if options.what == "run":
        return run(stages, words)
    if options.what == "status":
        return status(stages)
    return submit(stages, options.file, words, options, shlex.join(["python", "-m", "baton_lightning", "chain", *argv]))
