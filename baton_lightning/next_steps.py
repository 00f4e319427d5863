"""The command that follows a finished one. A verb names it, and the front door prints it when the verb has ended well.

    next: python -m baton_lightning fit -c experiments/stage2.yaml

Commands that a chain, the demo or an ablation starts print none, nor do ranks other than the first.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from baton_lightning import hints
from baton_lightning.plain_files import read_json

STARTED_BY_CHAIN = "BATON_STARTED_BY_CHAIN"
JOINT, MANIFEST = "JointTraining", "manifest.json"
_named: ContextVar[list[str] | None] = ContextVar("named", default=None)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Context that collects the commands that a verb names."""
    found: list[str] = []
    token = _named.set(found)
    try:
        yield found
    finally:
        _named.reset(token)


def show(commands: list[str]) -> None:
    """Prints commands, unless another process shows what is next."""
    first = all(os.environ.get(name, "0") in ("", "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if first and STARTED_BY_CHAIN not in os.environ:
        for command in dict.fromkeys(commands):
            print(f"next: {command}", flush=True)


def name(*words: str | Path) -> None:
    """Names a command that follows the given one."""
    if (found := _named.get()) is not None:
        found.append(hints.command(*words).strip("`"))


def name_page(file: Path) -> None:
    """Names a page to look at, in place of the commands that were named before."""
    if (found := _named.get()) is not None:
        found[:] = [f"open {shlex.quote(str(file))} in a browser"]


def name_generation(run: str | Path, plan: Path) -> None:
    """Names the command that makes a clip of a plan, if the run that made the plan is there."""
    if run and (Path(run) / MANIFEST).is_file():
        name("generate", "--run", run, "--plan", plan, "--out", f"clips/{plan.stem}")


def name_encoding(root: Path) -> None:
    """Names the command that caches a data set, or the first stage if it is cached."""
    if not (root / "cache.json").exists():
        config = hints.experiment_file(hints.ENCODE)
        if config.is_file():
            name("predict", "-c", config, *hints.overrides_for(config, root=root))
    else:
        name_first_stage(root)


def name_first_stage(root: Path) -> None:
    """Names the command that trains the first stage on a data set."""
    if (config := hints.experiment_file("stage1.yaml")).is_file():
        name("fit", "-c", config, *hints.overrides_for(config, root=root))


def name_after_run(run: Path) -> None:
    """Names the training that starts from a finished run, or from another parent that it needs first; generation if there is none."""
    made = read_json(run / MANIFEST, finite=False) if (run / MANIFEST).exists() else {}
    for config, chosen in children_of(run):
        missing = [parent for parent in parents_of(chosen) if not (parent / MANIFEST).exists()]
        wanted = hints.experiment_of(missing[0].name) if missing else config
        if wanted is None:
            continue
        if not missing and lacks_plans(chosen) and (plans := hints.experiment_file(hints.PLANS)).is_file():
            name("predict", "-c", plans, *hints.overrides_for(plans))
        else:
            name("fit", "-c", wanted, *hints.overrides_for(wanted, folder=missing[0] if missing else None))
        return
    if made.get("stage") == JOINT:
        name("generate", "--run", run, "--out", f"clips/{run.name}")


def children_of(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Trainings beside the given experiment that start from a run: files and their settings."""
    from baton_lightning import settings

    for file in sorted(hints.experiment_file(hints.ENCODE).parent.glob("*.yaml")):
        try:
            chosen: dict[str, Any] = settings.read([file], hints.overrides_for(file))
        except ValueError:
            continue
        trains = "return_predictions" not in chosen
        if trains and any(os.path.abspath(folder) == os.path.abspath(run) for folder in parents_of(chosen)):
            yield file, chosen


def parents_of(chosen: dict[str, Any]) -> list[Path]:
    """Folders of the runs that an experiment starts from."""
    parents = init_args(chosen.get("model")).get("parents")
    return [Path(str(folder)) for folder in parents.values()] if isinstance(parents, dict) else []


def lacks_plans(chosen: dict[str, Any]) -> bool:
    """Whether an experiment reads cached plans that do not exist yet."""
    plan = init_args(chosen.get("model")).get("plan")
    cached = isinstance(plan, dict) and str(plan.get("class_path", "")).endswith(".CachedPlan")
    return cached and not (Path(str(init_args(chosen.get("data")).get("root", ""))) / "plans.json").exists()


def init_args(section: Any) -> dict[str, Any]:
    """Arguments of a section's class; empty if there are none."""
    found = section.get("init_args") if isinstance(section, dict) else None
    return found if isinstance(found, dict) else {}
