"""`slurm`: an sbatch script for an experiment, or for an array of variants of it, that a person can read before it is submitted.

Every task of the array is a run of its own, in a folder of its own, named after what it varies. A run that reaches the time limit saves,
goes back into the queue and goes on from its last checkpoint (callbacks/requeue.py). Words that this verb does not know go to `fit`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton_lightning import settings

SECTIONS = ("base", "seed_everything", "clip", "run", "data", "model", "trainer", "optimizer", "lr_scheduler", "weights_only")
"""Of the settings that a task may be given. `resume` and `ckpt_path` are not among them: every start would begin there again."""
RUN = ("--run.root", "--run.experiment", "--run.stage")

TEMPLATE = """\
#!/bin/bash
{directives}

# {title}
# Written by `{written_by}`.
set -euo pipefail
cd {folder}
{array}
# One task is one process on one GPU; SLURM counts them, Lightning finds them.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# The port is made of job and task: two on one node do not meet.
MASTER_PORT=$((12000 + (${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}} * 31 + ${{SLURM_ARRAY_TASK_ID:-0}}) % 20000))
export MASTER_ADDR MASTER_PORT
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"

# For the network of your cluster, if NCCL does not find it or hangs:
# export NCCL_SOCKET_IFNAME=ib0      # interface of the first handshake: `ip link` on a node lists them
# export NCCL_IB_HCA=mlx5            # InfiniBand adapters
# export NCCL_DEBUG=INFO             # what NCCL chose, in the log
# export TORCH_NCCL_ASYNC_ERROR_HANDLING=1

# SIGUSR1 (without `B:`) goes to the processes of srun, which save at the end of a step and requeue the job; a dead one ends the others.
srun --kill-on-bad-exit=1 {command}
"""


@dataclass(frozen=True)
class Resources:
    """What a job asks for.

    Args:
        devices: Processes on a node.
        gpus: GPUs on a node; 0 asks for none.
        nodes: Nodes.
        time: Time limit as SLURM writes it, e.g. ``24:00:00``.
        partition: Partition; ``None`` leaves it to the cluster.
        account: Account that pays; ``None`` leaves it to the cluster.
        output: Log file; ``%A`` and ``%a`` are array and task.
    """

    devices: int
    gpus: int
    nodes: int
    time: str
    partition: str | None
    account: str | None
    output: str


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Options of whatever writes a script."""
    parser.add_argument("--array", type=Path, metavar="FILE", help="a list file: each line is one task's overrides; # starts a comment")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=A,B", help="values of a setting; several --grid give every combination"
    )
    parser.add_argument(
        "--gpus-per-node", type=int, metavar="N", help="GPUs and processes a node (default: trainer.devices; 0: no GPU is asked for)"
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="nodes (default: trainer.num_nodes)")
    parser.add_argument("--time", default="24:00:00", help="time limit of one start (default: %(default)s)")
    parser.add_argument("--partition", metavar="P", help="partition of the cluster")
    parser.add_argument("--account", metavar="A", help="account that pays")
    parser.add_argument(
        "--output", metavar="FILE", help="log of a task (default: <root>/logs/<job name>-%%A_%%a.out; %%j without an array)"
    )


def resources(options: argparse.Namespace, chosen: dict[str, Any], *, array: bool) -> Resources:
    """What a job asks for, from options and the experiment's trainer.

    Raises:
        ValueError: If the number of devices is neither given nor a number in the experiment.
    """
    trainer = chosen.get("trainer") or {}
    devices = options.gpus_per_node or trainer.get("devices", 1)
    if not str(devices).isdigit() or not int(devices):
        raise ValueError(f"slurm: trainer.devices must be a number of processes a node, got {devices!r}; give --gpus-per-node")
    cpu = trainer.get("accelerator") == "cpu" or options.gpus_per_node == 0
    output = options.output or f"{settings.folder(chosen).parents[1]}/logs/%x-{'%A_%a' if array else '%j'}.out"
    return Resources(
        int(devices),
        0 if cpu else int(devices),
        options.nodes or int(trainer.get("num_nodes", 1)),
        options.time,
        options.partition,
        options.account,
        output,
    )


def tasks(grid: list[str], listed: Path | None) -> list[list[str]]:
    """Overrides of every task of an array; empty if there is no array.

    Raises:
        ValueError: If a grid is not ``key=a,b``, the list is missing or empty, or both are given.
    """
    if listed is not None and grid:
        raise ValueError("slurm: --array FILE and --grid both say what the tasks are; give one of them")
    if listed is not None:
        if not listed.is_file():
            raise ValueError(f"slurm: there is no list {listed}; write one line of overrides a task, e.g. `--seed_everything=1`")
        try:
            lines = [shlex.split(line, comments=True) for line in listed.read_text().splitlines()]
        except ValueError as error:  # a quotation that is not closed, or no text
            raise ValueError(f"slurm: {listed} must hold overrides as a shell would take them: {error}") from error
        if not any(lines):
            raise ValueError(f"slurm: {listed} must hold one line of overrides a task, it holds none")
        return [line for line in lines if line]
    axes = []
    for axis in grid:
        key, equals, values = axis.partition("=")
        key = key.removeprefix("--")
        if not key or not equals or not all(values.split(",")):
            raise ValueError(f"slurm: --grid must be key=value,value, got {axis!r}; e.g. --grid seed_everything=0,1,2")
        axes.append([f"--{key}={value}" for value in values.split(",")])
    return [list(words) for words in itertools.product(*axes)] if axes else []


def with_own_folder(words: list[str], experiment: str) -> list[str]:
    """A task's overrides with ``run.experiment`` named after them, unless they say where the run goes."""
    given = settings.overrides(words)
    if any(name[2:] in given for name in RUN):
        return words
    name = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in given.items())
    return [f"--run.experiment={experiment}-{re.sub(r'[^A-Za-z0-9.=+_-]+', '_', name)}", *words]


def script(
    verb: str,
    configs: list[str],
    words: list[str],
    options: argparse.Namespace,
    *,
    written_by: str,
    dependency: str | None = None,
) -> tuple[str, Resources, list[Path]]:
    """An sbatch script.

    Args:
        verb: fit or predict.
        configs: Experiment files; later ones overlay earlier ones.
        words: Overrides that every task gets.
        options: What :func:`add_resources` parsed.
        written_by: The command to name in the script.
        dependency: Value of ``--dependency``.

    Returns:
        The script, what it asks for, and the run folder of every task.

    Raises:
        ValueError: If two tasks would share a run folder, or the options are no array or no resources.
    """
    chosen = settings.read(configs, words)
    variants = tasks(options.grid, options.array)
    asked = resources(options, chosen, array=bool(variants))
    for words_of_task in [words, *variants]:
        require_settings(words_of_task)
    experiment = str((chosen.get("run") or {}).get("experiment", "demo"))
    variants = [with_own_folder(variant, experiment) for variant in variants]
    folders = [settings.folder(settings.read(configs, [*words, *variant])) for variant in variants or [[]]]
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise ValueError(f"slurm: every task needs a run folder of its own, {twice[0]}/ has several; give each its --run.experiment")
    directives = {
        "job-name": f"{experiment}-{folders[0].name}",
        "array": f"0-{len(variants) - 1}" if variants else None,
        "dependency": dependency,
        "kill-on-invalid-dep": "yes" if dependency else None,  # else a job waits for ever for one that failed
        "nodes": asked.nodes,
        "ntasks-per-node": asked.devices,
        "gpus-per-node": asked.gpus or None,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "signal": "SIGUSR1@300",
        "requeue": "",
        "open-mode": "append",
        "output": asked.output,
    }
    command = [sys.executable, "-m", "baton_lightning", verb, *(word for config in configs for word in ("-c", config)), *words]
    command += [f"--trainer.devices={asked.devices}", f"--trainer.num_nodes={asked.nodes}"]
    text = TEMPLATE.format(
        directives="\n".join(f"#SBATCH --{key}{'=' * (value != '')}{value}" for key, value in directives.items() if value is not None),
        title=f"{verb} {' '.join(configs)}" + (f", {len(variants)} variants" if variants else ""),
        written_by=written_by,
        folder=shlex.quote(os.getcwd()),
        array=case(variants),
        command=shlex.join(command) + (' "${overrides[@]}"' if variants else ""),
    )
    return text, asked, folders


def require_settings(words: list[str]) -> None:
    """Refuses overrides that the job would end with, or never get past, once it has waited in the queue.

    Raises:
        ValueError: If a word is no setting of an experiment, or says where every start of a requeued job would begin again.
    """
    for key, value in settings.overrides(words).items():
        if (key, value) == ("resume", "changed"):  # once the change is recorded, a job that is requeued has none
            continue
        if key in ("resume", "ckpt_path"):
            raise ValueError(f"slurm: a job that is requeued goes on from its own last checkpoint, with --{key} it would begin there again")
        if key.split(".")[0].rstrip("+") not in SECTIONS:
            raise ValueError(f"slurm: there is no option and no section of an experiment called --{key}; see `slurm write --help`")


def case(variants: list[list[str]]) -> str:
    """What each task of the array is, as bash."""
    if not variants:
        return ""
    lines = ["", "# What each task of the array is:", 'case "$SLURM_ARRAY_TASK_ID" in']
    lines += [f"    {i}) overrides=({shlex.join(words)}) ;;" for i, words in enumerate(variants)]
    lines += ['    *) echo "there is no task $SLURM_ARRAY_TASK_ID in this script" >&2; exit 2 ;;', "esac"]
    return "\n".join(lines) + "\n"


def sbatch(text: str, asked: Resources) -> str:
    """Submits a script and returns the job's id.

    Raises:
        ValueError: If there is no sbatch, or it refuses.
    """
    Path(asked.output).parent.mkdir(parents=True, exist_ok=True)  # SLURM does not make it, and drops the log without a word
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError("slurm: there is no `sbatch` on this machine's PATH; run it on a login node, or `--dry-run` to read it") from error
    if done.returncode:
        raise ValueError(f"slurm: sbatch refused the script: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m baton_lightning slurm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = made.add_subparsers(dest="what", required=True)
    for name, text in (("write", "print the script, or save it"), ("submit", "hand the script to sbatch")):
        sub = verbs.add_parser(
            name,
            help=text,
            description=f"{text.capitalize()}.",
            epilog="Example: slurm write -c experiments/stage1.yaml --grid seed_everything=0,1,2 --gpus-per-node 8 --trainer.max_steps=500",
            allow_abbrev=False,
        )
        sub.add_argument("-c", "--config", action="append", required=True, help="experiment file, as for `fit`; several overlay each other")
        add_resources(sub)
        if name == "write":
            sub.add_argument("--to", type=Path, metavar="FILE", help="save the script here instead of printing it")
        else:
            sub.add_argument("--dry-run", action="store_true", help="print the script, submit nothing")
    return made


def main(argv: list[str]) -> int:
    options, words = parser().parse_known_args(argv)
    text, asked, folders = script(
        "fit", options.config, words, options, written_by=shlex.join(["python", "-m", "baton_lightning", "slurm", *argv])
    )
    if options.what == "submit" and not options.dry_run:
        number = sbatch(text, asked)
        print(f"submitted {number}: {', '.join(f'{folder}/' for folder in folders)}; logs in {Path(asked.output).parent}/")
    elif options.what == "write" and options.to:
        options.to.write_text(text)
        print(f"wrote {options.to}; submit it with `sbatch {options.to}`, after `mkdir -p {Path(asked.output).parent}`")
    else:
        print(text, end="")
    return 0
