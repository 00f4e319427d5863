"""Status of stages, from the files of their run folders: manifest, ledger, names of checkpoints. torch is not imported."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from baton_lightning import settings
from baton_lightning.launch.jobs import Job
from baton_lightning.launch.order import require_order, require_parents
from baton_lightning.launch.stage import Stage, Status
from baton_lightning.launch.verdict import cache_lacks, verdict
from baton_lightning.runs import manifest
from baton_lightning.runs.ledgers import NAME as LEDGER
from baton_lightning.runs.ledgers import last_line


def read_chain(path: Path, words: list[str]) -> dict[str, Stage]:
    """Stages of a chain file, in order.

    Args:
        path: YAML file of ``name: {config: FILE, verb: fit, after: [NAMES]}``. FILE is relative to the folder of the chain file.
        words: Overrides for every stage.

    Raises:
        ValueError: If the file is missing or invalid, or its stages do not share one experiment folder.
    """
    if not path.is_file():
        raise ValueError(f"chain: there is no file {path}; e.g. experiments/chain.yaml")
    entries = settings.read_yaml(path, "chain")
    named = isinstance(entries, dict) and all(isinstance(e, dict) and isinstance(e.get("config"), str) for e in entries.values())
    if not entries or not named:
        raise ValueError(f"chain: {path} must name stages as `name: {{config: stage1.yaml, after: [names]}}`")
    stages: dict[str, Stage] = {}
    for name, entry in entries.items():
        if unknown := sorted(entry.keys() - {"config", "verb", "after"}):
            raise ValueError(f"chain: {path}: {name} may have the keys config, verb and after, got `{unknown[0]}`")
        if (verb := entry.get("verb", "fit")) not in ("fit", "predict"):
            raise ValueError(f"chain: {path}: the verb of {name} must be fit or predict, got {verb!r}")
        after = entry.get("after") or ()
        if not isinstance(after, list | tuple):
            raise ValueError(f"chain: {path}: `after` of {name} must be a list of stages, got {after!r}; e.g. after: [{after}]")
        require_order(path, name, [str(other) for other in after], entries)
        config = Path(os.path.relpath(path.parent / entry["config"]))
        stages[name] = Stage(name, config, verb, tuple(after), settings.read([config], words))
    require_parents(path, stages)
    homes = {stage.folder.parent for stage in stages.values()}
    if len(homes) > 1:
        raise ValueError(f"chain: all stages must share run.root and run.experiment, got {', '.join(sorted(map(str, homes)))}")
    return stages


def statuses(stages: Mapping[str, Stage], jobs: Mapping[str, Job]) -> dict[str, Status]:
    """Status of every stage.

    Args:
        stages: Stages of the chain, in order.
        jobs: Stage -> the process or job that runs it, or the job that ended.
    """
    found: dict[str, Status] = {}
    for name, stage in stages.items():
        step, loss, checkpoint = progress(stage.folder) if stage.verb == "fit" else (None, None, "")
        state, why, digest = "waiting", "", ""
        job = jobs.get(name)
        if stage.record.exists() and stage.verb == "fit":
            made = manifest.read(stage.folder)
            digest = made["weights_sha256"]
            state, why = verdict(stage, made, found)
        elif stage.record.exists() and not (why := cache_lacks(stage)):
            state = "finished"
        elif job is not None and job.busy:
            state, why = job.busy, ""
        elif all(found[other].state == "finished" for other in stage.after):
            state = "ready" if step is None and not checkpoint else "interrupted"
        found[name] = Status(state, why, step, loss, digest, checkpoint, str(job or ""))
    return found


def progress(folder: Path) -> tuple[int | None, float | None, str]:
    """Last step of a run, the loss of that step, and the name of the newest checkpoint."""
    there = [path for path in (folder / "checkpoints").glob("*.ckpt") if not path.is_symlink()]
    steps = {path: int(found[1]) if (found := re.search(r"step[-=](\d+)", path.name)) else -1 for path in there}
    newest = max(there, key=lambda path: (steps[path], path.stat().st_mtime_ns)).name if there else ""
    line = last_line(folder / LEDGER)
    if line is not None:
        return int(line["step"]), float.fromhex(line["loss"]), newest
    return max((step for step in steps.values() if step >= 0), default=None), None, newest
