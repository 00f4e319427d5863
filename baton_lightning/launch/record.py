"""`<root>/<experiment>/chain.json`: the process or job of each run folder, with the settings of the job."""

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
    """Record of the process or job of each stage. Entries are found by run folder; stage names may differ between chains.

    Args:
        home: Folder of the experiment, ``<root>/<experiment>``.

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
                f"chain: {self.path} is damaged ({error}); it records which process or job runs which stage: delete it when none of "
                f"them is running"
            ) from error

    def of(self, stage: Stage) -> dict[str, Any]:
        """Entry of a stage; empty if there is none."""
        folder = str(stage.folder.absolute())
        own = [entry for entry in self.stages.values() if entry.get("folder") == folder]
        named = self.stages.get(stage.name, {})
        return own[-1] if own else named if "folder" not in named else {}

    def note(self, stage: Stage, **entry: Any) -> None:
        """Records the process (``pid``, ``host``) or the job (``job``, ``log``) of a stage. No arguments record that there is none."""
        folder = str(stage.folder.absolute())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.read()
        self.stages = {name: known for name, known in self.stages.items() if known.get("folder") != folder}
        given = {"settings": stage.settings} if "job" in entry else {}
        self.stages[stage.name] = {"folder": folder, **given, **entry}
        atomic.write_text(self.path, json.dumps({"stages": self.stages}, indent=1, default=str))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds an exclusive lock, so that another process waits before it submits the same runs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # without support for locks in the file system there is no protection
                fcntl.flock(handle, fcntl.LOCK_EX)
            self.read()
            yield
        finally:
            os.close(handle)

    def other_settings(self, stage: Stage) -> str:
        """Message about settings in which a queued job differs from the stage; empty if there are none or they are not recorded."""
        was, now = self.of(stage).get("settings"), stage.settings
        if not was:
            return ""
        found = [line for line in settings.differences(now, was) if not line.startswith(tuple(f"trainer.{name}:" for name in WHERE))]
        found += [f"{key}: unset -> {now[key]}" for key in now.keys() - was.keys()]
        return (
            f"; it was submitted with other settings ({'; '.join(found[:4])}): `scancel` it and submit again to use the new ones"
            if found
            else ""
        )


def alive(entry: dict[str, Any]) -> bool:
    """Whether the process of an entry is running on this machine."""
    if "pid" not in entry or entry["host"] != socket.gethostname():
        return False
    try:
        return b"baton_lightning" in Path(f"/proc/{entry['pid']}/cmdline").read_bytes()
    except OSError:
        return False


def numbers_of(stages: Mapping[str, Stage], record: Record) -> dict[str, str]:
    """Stage -> id of its recorded job."""
    return {name: str(entry["job"]) for name, stage in stages.items() if "job" in (entry := record.of(stage))}


def working(
    stages: Mapping[str, Stage],
    record: Record,
    names: Mapping[str, Stage] | None = None,
    *,
    queue: Mapping[str, Job] | None = None,
    ended: bool = False,
) -> dict[str, Job]:
    """Process or job of each stage, by name of the stage: a process on this machine, or a job of any user.

    Args:
        stages: Stages of the chain.
        record: Record of their experiment.
        names: Name of a job -> stage, for jobs that may be in the queue without an entry in the record.
        queue: Jobs in the SLURM queue by id; ``None`` queries squeue.
        ended: Whether to include jobs that ended without finishing their stage.

    Raises:
        ValueError: If squeue fails.
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
