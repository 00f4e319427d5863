"""Resources of a SLURM job, and their notation as ``#SBATCH`` directives."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton_lightning import settings

LEAD = 300
"""Time between SIGUSR1 and the end of the time limit, in s."""
UNLIMITED = ("0", "INFINITE", "UNLIMITED", "-1")


@dataclass(frozen=True)
class Resources:
    """Resources that a job requests.

    Args:
        devices: Processes per node.
        gpus: GPUs per node; 0 requests none.
        nodes: Number of nodes.
        time: Time limit in SLURM's notation, e.g. ``24:00:00``.
        lead: Time between SIGUSR1 and the time limit, in s. It must suffice for one step and a save.
        output: Log file in SLURM's notation; ``%A`` and ``%a`` are the ids of array and task.
        others: Further directives by name, e.g. ``partition``.
    """

    devices: int
    gpus: int
    nodes: int
    time: str
    lead: int
    output: str
    others: dict[str, str]

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return Path(self.output.replace("%%", "%")).parent


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Adds the options of every verb that writes a script."""
    add_tasks(parser)
    parser.add_argument(
        "--gpus-per-node", type=int, metavar="N", help="GPUs and processes per node (default: trainer.devices; 0: no GPU is requested)"
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="nodes (default: trainer.num_nodes)")
    parser.add_argument("--time", default="24:00:00", help="time limit of one start (default: %(default)s)")
    parser.add_argument(
        "--lead",
        type=int,
        default=LEAD,
        metavar="SECONDS",
        help="time before the limit at which the run is signalled to save and requeue; it must cover the longest step or validation "
        "and a save, and the limit must be at least twice as long (default: %(default)s)",
    )
    parser.add_argument("--cpus-per-task", type=int, metavar="N", help="CPUs of each process, e.g. data.init_args.num_workers and one")
    parser.add_argument("--mem", metavar="SIZE", help="memory of a node, e.g. 64G")
    parser.add_argument("--qos", metavar="Q", help="quality of service")
    parser.add_argument("--partition", metavar="P", help="partition of the cluster")
    parser.add_argument("--account", metavar="A", help="account that is charged")
    parser.add_argument(
        "--output", metavar="FILE", help="log of a task (default: <root>/logs/<job name>-%%A_%%a.out; %%j without an array)"
    )


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Adds the options that define the tasks of an array."""
    parser.add_argument(
        "--array", type=Path, metavar="FILE", help="a list file: each line holds the overrides of one task; # starts a comment"
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="values of a setting, lists in brackets; several --grid give every combination",
    )


def task_words(options: argparse.Namespace) -> list[str]:
    """The given options of :func:`add_tasks`, as words of a command line."""
    return [*([f"--array={options.array}"] if options.array is not None else []), *(f"--grid={values}" for values in options.grid)]


def resources(options: argparse.Namespace, chosen: dict[str, Any], *, array: bool) -> Resources:
    """Resources from the options and the experiment's trainer settings.

    Args:
        options: Parsed options of :func:`add_resources`.
        chosen: Settings of the experiment.
        array: Whether the job is an array.

    Raises:
        ValueError: If the number of devices is not a positive number, or the time limit is shorter than twice the lead.
    """
    trainer = chosen.get("trainer") or {}
    devices = options.gpus_per_node or trainer.get("devices", 1)
    if not str(devices).isdigit() or not int(devices):
        raise ValueError(f"slurm: trainer.devices must be a number of processes per node, got {devices!r}; give --gpus-per-node")
    limit = seconds_of(options.time)
    if options.lead < 1 or (limit is not None and limit < 2 * options.lead):
        raise ValueError(
            f"slurm: --time {options.time} must be at least twice the --lead of {options.lead} s. A run is signalled to save and "
            f"requeue that long before the limit; a run that is signalled while it starts makes only one step per job. Give a longer "
            f"--time, or a shorter --lead"
        )
    cpu = trainer.get("accelerator") == "cpu" or options.gpus_per_node == 0
    logs = str(settings.folder(chosen).parents[1] / "logs").replace("%", "%%")
    others = {name: getattr(options, name.replace("-", "_")) for name in ("cpus-per-task", "mem", "qos", "partition", "account")}
    return Resources(
        devices=int(devices),
        gpus=0 if cpu else int(devices),
        nodes=options.nodes or int(trainer.get("num_nodes", 1)),
        time=options.time,
        lead=options.lead,
        output=options.output or f"{logs}/%x-{'%A_%a' if array else '%j'}.out",
        others={name: str(value) for name, value in others.items() if value is not None},
    )


def seconds_of(time: str) -> float | None:
    """A time limit in s; ``None`` if it is unlimited.

    Args:
        time: Minutes, ``m:s``, ``h:m:s``, ``d-h``, ``d-h:m`` or ``d-h:m:s``.

    Raises:
        ValueError: If SLURM would refuse it.
    """
    if time.upper() in UNLIMITED:
        return None
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise ValueError(f"slurm: --time must be a time limit as SLURM writes it, got {time!r}; e.g. 90 (minutes), 12:00:00 or 2-00:00:00")
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(int(part) * unit for part, unit in zip(parts, units, strict=False))


def job_name(text: str) -> str:
    """A name that is valid without quoting for SLURM, the shell and file names; other characters become ``_``."""
    return re.sub(r"[^A-Za-z0-9.=+_-]+", "_", text)


def directive(key: str, value: object) -> str:
    """An ``#SBATCH`` line. Spaces and brackets are quoted, because sbatch splits its lines like a shell.

    Raises:
        ValueError: If the value contains characters that cannot be quoted.
    """
    text = str(value)
    if re.search(r"[\n\r\"\\]", text):
        raise ValueError(
            f"slurm: --{key} must hold no line break, quotation mark or backslash, got {text!r}; give a plainer name or --output"
        )
    quoted = text if re.fullmatch(r"[A-Za-z0-9@%+=:,./_<>-]*", text) else f'"{text}"'
    return f"#SBATCH --{key}{'=' * (text != '')}{quoted}"
