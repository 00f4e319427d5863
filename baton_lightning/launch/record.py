"""`<root>/<experiment>/chain.json`: the process or the job that works in each run folder, with the settings it was given."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from baton_lightning import atomic, settings
from baton_lightning.launch import jobs
from baton_lightning.launch.jobs import Job
from baton_lightning.launch.stage import Stage
from baton_lightning.launch.verdict import WHERE

NAME = "chain.json"


class Record:
    """Who works where; entries are found by run folder, whatever a chain calls the stage.

    Args:
        home: ``<root>/<experiment>``.

    Raises:
        ValueError: If the file is damaged.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / NAME
        self.stages: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        if not self.path.exists():
            return
        try:
            self.stages = json.loads(self.path.read_bytes())["stages"]
            if not all(
                {"pid", "host"} <= entry.keys() or "job" in entry or not entry.keys() - {"folder"} for entry in self.stages.values()
            ):
                raise ValueError("an entry has neither job nor pid and host")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"chain: {self.path} is damaged ({error}); it only says who works on which stage: delete it once nobody does"
            ) from error

    def of(self, stage: Stage) -> dict[str, Any]:
        """What is known of a stage; nothing if nobody was at work."""
        folder = str(stage.folder.absolute())
        own = [entry for entry in self.stages.values() if entry.get("folder") == folder]
        named = self.stages.get(stage.name, {})
        return own[-1] if own else named if "folder" not in named else {}

    def note(self, stage: Stage, **entry: Any) -> None:
        """Writes down who works on a stage; nothing means nobody."""
        folder = str(stage.folder.absolute())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.read()
        self.stages = {name: known for name, known in self.stages.items() if known.get("folder") != folder}
        given = {"settings": stage.settings} if "job" in entry else {}
        self.stages[stage.name] = {"folder": folder, **given, **entry}
        atomic.write_text(self.path, json.dumps({"stages": self.stages}, indent=1, default=str))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nobody else submits the same runs; another that wants to waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks protects nobody
                fcntl.flock(handle, fcntl.LOCK_EX)
            self.read()
            yield
        finally:
            os.close(handle)

    def other_settings(self, stage: Stage) -> str:
        """What a job in the queue was given that is asked for otherwise now; empty if nothing, or nobody knows."""
        was, now = self.of(stage).get("settings"), stage.settings
        if not was:
            return ""
        found = [line for line in settings.differences(now, was) if not line.startswith(tuple(f"trainer.{name}:" for name in WHERE))]
        found += [f"{key}: not given -> {now[key]}" for key in now.keys() - was.keys()]
        return (
            f"; it was submitted with other settings ({'; '.join(found[:4])}): `scancel` it and submit again to have these" if found else ""
        )


def alive(entry: dict[str, Any]) -> bool:
    """Whether a process still works on a stage, as far as this machine can tell."""
    if "pid" not in entry or entry["host"] != socket.gethostname():
        return False
    try:
        return b"baton_lightning" in Path(f"/proc/{entry['pid']}/cmdline").read_bytes()
    except OSError:
        return False


def numbers_of(stages: Mapping[str, Stage], record: Record) -> dict[str, str]:
    """Stage -> id of the job that was submitted for it."""
    return {name: str(entry["job"]) for name, stage in stages.items() if "job" in (entry := record.of(stage))}


def working(
    stages: Mapping[str, Stage],
    record: Record,
    names: Mapping[str, Stage] | None = None,
    *,
    queue: Mapping[str, Job] | None = None,
    ended: bool = False,
) -> dict[str, Job]:
    """Who works on stages, by name: a process of this machine, or a job of anybody's.

    Args:
        stages: The chain.
        record: Of its home.
        names: Name of a job -> stage, of jobs that may be in the queue although nobody wrote them down.
        queue: What SLURM says of the jobs, if it was asked already.
        ended: Whether to tell of jobs that are over as well.

    Raises:
        ValueError: If SLURM does not answer.
    """
    entries = {name: record.of(stage) for name, stage in stages.items()}
    found = {name: Job(f"pid {entry['pid']}", "RUNNING", entry["host"]) for name, entry in entries.items() if alive(entry)}
    numbers = numbers_of(stages, record)
    queue = jobs.queue(numbers.values()) if queue is None else queue
    found |= {name: queue[number] for name, number in numbers.items() if number in queue}
    if unknown := {job: stage for job, stage in (names or {}).items() if stage.name not in found}:
        others = jobs.named({job: stage.folder for job, stage in unknown.items()})
        found |= {stage.name: others[stage.folder] for stage in unknown.values() if stage.folder in others}
    for name, number in numbers.items():
        if ended and name not in found and not stages[name].record.exists():
            log = entries[name].get("log")
            found[name] = jobs.ended(number, Path(log) if log else None)
    return found
