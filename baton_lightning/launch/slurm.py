"""`slurm`: writes or submits a readable sbatch script for an experiment, or for an array of variants of it.

Every array task is a separate run in its own run folder, named after the settings that vary. Shortly before the time limit, a run saves a
checkpoint and requeues its job, which then resumes from that checkpoint (callbacks/requeue.py). Options that this verb does not know are
passed to `fit`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baton_lightning import settings
from baton_lightning.arguments import Parser
from baton_lightning.launch.grid import tasks, with_own_folder
from baton_lightning.launch.record import Record, working
from baton_lightning.launch.resources import Resources, add_resources, directive, job_name, resources
from baton_lightning.launch.stage import Stage
from baton_lightning.launch.status import statuses
from baton_lightning.launch.verdict import REFUSED

SECTIONS = ("base", "seed_everything", "clip", "run", "data", "model", "trainer", "optimizer", "lr_scheduler", "weights_only")
"""Sections that overrides may set. `resume` and `ckpt_path` are excluded: every start of a requeued job would begin there again."""

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
# The port is computed from job and task, so that two on one node differ.
MASTER_PORT=$((12000 + (${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}} * 31 + ${{SLURM_ARRAY_TASK_ID:-0}}) % 20000))
export MASTER_ADDR MASTER_PORT
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}" # srun does not take it from the job

# For the network of your cluster, if NCCL does not find it or hangs:
# export NCCL_SOCKET_IFNAME=ib0      # interface of the first handshake: `ip link` on a node lists them
# export NCCL_IB_HCA=mlx5            # InfiniBand adapters
# export NCCL_DEBUG=INFO             # what NCCL chose, in the log
# export TORCH_NCCL_ASYNC_ERROR_HANDLING=1

# SIGUSR1 (without `B:`) goes to the processes of srun, which save at the end of a step and requeue the job; a dead one ends the others.
srun --kill-on-bad-exit=1 {command}
"""


def script(
    verb: str,
    configs: list[str],
    words: list[str],
    options: argparse.Namespace,
    *,
    written_by: str,
    dependency: str | None = None,
    indices: Sequence[int] | None = None,
) -> tuple[str, Resources, list[Path]]:
    """Writes an sbatch script.

    Args:
        verb: ``fit`` or ``predict``.
        configs: Experiment files; later ones override earlier ones.
        words: Overrides for every task.
        options: Parsed options of :func:`~baton_lightning.launch.resources.add_resources`.
        written_by: Command line that is named in the script.
        dependency: Value of ``--dependency``.
        indices: Array tasks to submit; ``None`` = all.

    Returns:
        The script, its resources, and the run folder of every task.

    Raises:
        ValueError: If two tasks would share a run folder, or the array, the overrides or the resources are invalid.
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
    directives: dict[str, Any] = {
        "job-name": name_of(folders[0], experiment),
        "comment": None if variants else comment_of(folders[0]),
        "array": spans(range(len(variants)) if indices is None else indices) if variants else None,
        "dependency": dependency,
        "kill-on-invalid-dep": "yes" if dependency else None,  # otherwise a job whose dependency failed stays in the queue
        "nodes": asked.nodes,
        "ntasks-per-node": asked.devices,
        "gpus-per-node": asked.gpus or None,
        **asked.others,
        "time": asked.time,
        "signal": f"SIGUSR1@{asked.lead}",
        "requeue": "",
        "open-mode": "append",
        "output": asked.output,
    }
    command = [sys.executable, "-m", "baton_lightning", verb, *(word for config in configs for word in ("-c", config)), *words]
    command += [f"--trainer.devices={asked.devices}", f"--trainer.num_nodes={asked.nodes}"]
    text = TEMPLATE.format(
        directives="\n".join(directive(key, value) for key, value in directives.items() if value is not None),
        title=f"{verb} {' '.join(configs)}" + (f", {len(variants)} variants" if variants else ""),
        written_by=" ".join(written_by.splitlines()),
        folder=shlex.quote(os.getcwd()),
        array=case(variants),
        command=shlex.join(command) + (' "${overrides[@]}"' if variants else ""),
    )
    return text, asked, folders


def name_of(folder: Path, experiment: str) -> str:
    """Name of a run's job."""
    return job_name(f"{experiment}-{folder.name}")


def comment_of(folder: Path) -> str | None:
    """Comment that identifies the run of a queued job: its absolute run folder. ``None`` if SLURM could not store it."""
    text = str(folder.absolute())
    return text if len(text) < 1000 and not set(text) & set('\n\r"\\') else None


def spans(indices: Sequence[int]) -> str:
    """Indices in SLURM's notation, e.g. ``0-2,5``."""
    found: list[list[int]] = []
    for index in sorted(indices):
        if found and index == found[-1][1] + 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def require_settings(words: list[str]) -> None:
    """Refuses overrides with which the job would fail, or start over after each requeue. They are found before the job is queued.

    Raises:
        ValueError: If an override is not a setting of an experiment, or is ``resume`` or ``ckpt_path``.
    """
    for key, value in settings.overrides(words).items():
        if (key, value) == ("resume", "changed"):  # the first start records the change, so a requeued job finds none
            continue
        if key in ("resume", "ckpt_path"):
            raise ValueError(
                f"slurm: a requeued job resumes from its own last checkpoint; --{key} would apply again at every requeue; remove it"
            )
        if key.split(".")[0].rstrip("+") not in SECTIONS:
            raise ValueError(f"slurm: --{key} is neither an option nor a section of an experiment; see `slurm write --help`")


def case(variants: list[list[str]]) -> str:
    """Bash code that sets ``overrides`` to the overrides of the current array task; empty without variants."""
    if not variants:
        return ""
    lines = ["", "# What each task of the array is:", 'case "$SLURM_ARRAY_TASK_ID" in']
    lines += [f"    {i}) overrides=({shlex.join(words)}) ;;" for i, words in enumerate(variants)]
    lines += ['    *) echo "there is no task $SLURM_ARRAY_TASK_ID in this script" >&2; exit 2 ;;', "esac"]
    return "\n".join(lines) + "\n"


def sbatch(text: str, asked: Resources) -> str:
    """Submits a script and returns the job's id.

    Raises:
        ValueError: If sbatch is not installed or refuses the script.
    """
    if "%" not in str(asked.logs):
        asked.logs.mkdir(parents=True, exist_ok=True)  # SLURM does not create it, and would discard the log silently
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=text, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError("slurm: there is no `sbatch` on this machine's PATH; run it on a login node, or `--dry-run` to read it") from error
    if done.returncode:
        raise ValueError(f"slurm: sbatch refused the script: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]


def log_of(asked: Resources, name: str, number: str) -> str:
    """Log file of a job, or of an array task ``<array>_<task>``."""
    array, _, task = number.partition("_")
    filled = asked.output.replace("%%", "\0")
    for sign, value in {"%x": name, "%A": array, "%a": task, "%j": number}.items():
        filled = filled.replace(sign, value)
    return str(Path(filled.replace("\0", "%")).absolute())


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="python -m baton_lightning slurm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = made.add_subparsers(dest="what", required=True)
    for name, text in (("write", "print the script, or save it"), ("submit", "submit the script with sbatch")):
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
    written_by = shlex.join(["python", "-m", "baton_lightning", "slurm", *argv])
    text, asked, folders = script("fit", options.config, words, options, written_by=written_by)
    if options.what == "submit" and not options.dry_run:
        return submit(options, words, written_by, folders)
    if options.what == "write" and options.to:
        options.to.write_text(text)
        print(f"wrote {options.to}; submit it with `sbatch {options.to}`, after `mkdir -p {asked.logs}`")
    else:
        print(text, end="")
    return 0


def submit(options: argparse.Namespace, words: list[str], written_by: str, folders: list[Path]) -> int:
    """Submits the runs that are neither finished, running nor queued.

    Raises:
        ValueError: If an existing run is stale, damaged or of other settings, or sbatch fails.
    """
    variants = tasks(options.grid, options.array)
    experiment = settings.folder(settings.read(options.config, words)).parent.name
    due = []
    for index, folder in enumerate(folders):
        own = [*words, *with_own_folder(variants[index], experiment)] if variants else words
        stage = Stage(folder.name, Path(options.config[-1]), "fit", (), settings.read(options.config, own))
        stages, record = {stage.name: stage}, Record(folder.parent)
        job = working(stages, record, {} if variants else {name_of(folder, experiment): stage})
        status = statuses(stages, job)[stage.name]
        if status.state in REFUSED:
            raise ValueError(f"slurm: {folder}/ is {status.state}: {status.why}; delete that folder, or give another --run.experiment")
        if status.state == "finished":
            print(f"{folder}/ is finished; nothing to submit (delete the folder or give another run.experiment to train again)")
        elif status.state in ("running", "queued"):
            print(f"{folder}/ is {status.state} already: job {job[stage.name]}{record.other_settings(stage)}")
        else:
            due.append((index, stage, record))
    if not due:
        return 0
    text, asked, _ = script("fit", options.config, words, options, written_by=written_by, indices=[index for index, _, _ in due])
    number = sbatch(text, asked)
    for index, stage, record in due:
        own_number = f"{number}_{index}" if variants else number
        record.note(stage, job=own_number, log=log_of(asked, name_of(folders[0], experiment), own_number))
    print(f"submitted {number}: {', '.join(f'{stage.folder}/' for _, stage, _ in due)}; logs in {asked.logs}/")
    return 0
