"""A suite of ablations. Each row is a chain of stages with its own changes; rows share equal stages.

A suite file has the data, the stages' files, the rows, the seeds and the number of scored clips; a row file has the row's changes.
A stage's run folder is named after a digest of its settings, its seed, and the digests of its parents. So
two rows that are equal up to a stage share its run, a changed row gets new folders, and nothing is trained twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from baton_lightning import atomic, settings
from baton_lightning.launch.launcher import Step
from baton_lightning.verbs.generate import PLANS

LAST = "stage3_joint"
PLACE = ("run.root", "run.experiment")
"""Settings that determine where a run is saved, but not its content."""
ROW_KEYS = ("title", "set", "without", "steps_of", "plan", "clips_of", "paper")
SUITE_KEYS = ("data", "world", "encode", "stages", "rows", "seeds", "clips", "set", "claims")
ROWS = Path("../ablations")
"""Folder of the rows' files, relative to the folder of the suite."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: Name of its file.
        title: Name in the table.
        changes: Stage -> dotted setting -> value.
        without: Stages that are skipped; stages that would start from them start from initial weights.
        steps_of: Stage -> stages whose numbers of steps (in complete rows) are added up to its number of steps.
        plan: Plan of the clips, as for ``generate --plan``.
        clips_of: Stage whose transformer generates the clips.
        paper: P-Acc of the row in the paper's table; ``None`` = not in it.
    """

    name: str
    title: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    steps_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plan: str = "planned"
    clips_of: str = LAST
    paper: float | None = None


@dataclass(frozen=True)
class Suite:
    """A suite of ablations.

    Args:
        path: The suite's file.
        data: Folder of the data set.
        world: Arguments of ``shards world`` to build it.
        encode: Experiment file of the frozen networks that fill the cache; ``None`` = ``encode.yaml`` of the experiments.
        stages: Stage -> experiment file, parents before children.
        rows: Rows, in the table's order.
        seeds: Seeds of training.
        clips: Number of test prompts per tier.
        common: Changes of all rows: stage -> dotted setting -> value.
        claims: Claims that the report checks, see :mod:`~baton_lightning.ablation.evidence`.
    """

    path: Path
    data: Path
    world: tuple[str, ...]
    encode: Path | None
    stages: Mapping[str, Path]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    clips: int
    common: Mapping[str, Mapping[str, Any]]
    claims: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Run:
    """A stage of a row with a seed.

    Args:
        stage: Name of the stage.
        folder: Run folder, named after the digest.
        overlay: Changed settings, which are written to an overlay file beside the folder.
        words: Arguments of ``fit``.
        needs: Folders of its parents.
    """

    stage: str
    folder: Path
    overlay: Mapping[str, Any]
    words: tuple[str, ...]
    needs: tuple[Path, ...]

    @property
    def overlay_file(self) -> Path:
        return self.folder.with_suffix(".yaml")

    def write_overlay(self) -> None:
        """Writes the overlay file; command-line arguments cannot remove a mapping."""
        self.overlay_file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.overlay_file, yaml.safe_dump(dict(self.overlay)))


def mapping(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Reads a YAML file with some of these keys and no others.

    Raises:
        ValueError: If it is missing, is not a YAML mapping, or has another key.
    """
    if not path.is_file():
        raise ValueError(f"ablate: there is no file {path}")
    values = settings.read_yaml(path, "ablate")
    if not isinstance(values, dict):
        raise ValueError(f"ablate: {path} must hold `key: value` lines with the keys {', '.join(keys)}")
    if unknown := sorted(values.keys() - set(keys)):
        raise ValueError(f"ablate: {path} has the key `{unknown[0]}`; it may have {', '.join(keys)}")
    return values


def read_row(path: Path, stages: Mapping[str, Path]) -> Row:
    """Reads a row's file.

    Raises:
        ValueError: If it names a stage that the suite does not have, or a plan that `generate` does not support.
    """
    values = mapping(path, ROW_KEYS)
    row = Row(
        path.stem,
        values.get("title", path.stem.replace("_", " ")),
        values.get("set") or {},
        tuple(values.get("without") or ()),
        {stage: tuple(names) for stage, names in (values.get("steps_of") or {}).items()},
        values.get("plan", "planned"),
        values.get("clips_of", LAST),
        values.get("paper"),
    )
    named = {*row.changes, *row.without, *row.steps_of, *(name for names in row.steps_of.values() for name in names), row.clips_of}
    if unknown := sorted(named - set(stages)):
        raise ValueError(f"ablate: {path} names the stage {unknown[0]!r}; the suite has {', '.join(stages)}")
    if row.plan not in PLANS:
        raise ValueError(f"ablate: {path}: plan must be one of {', '.join(PLANS)}, got {row.plan!r}")
    return row


def beside(suite: Path, file: str) -> Path:
    """Path of a file that a suite names, relative to the current folder if it lies in it."""
    found = (suite.parent / file).resolve()
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def read_suite(path: Path) -> Suite:
    """Reads a suite's file with its rows.

    Raises:
        ValueError: If a key is missing or unknown; the message names the file and the valid keys.
    """
    values = mapping(path, SUITE_KEYS)
    if missing := [key for key in ("data", "stages", "rows", "seeds", "clips") if not values.get(key)]:
        raise ValueError(f"ablate: {path} must have `{missing[0]}`; e.g. experiments/suites/key_rows.yaml")
    if wrong := [key for key, kind in (("rows", str), ("seeds", int)) if not _is_list(values[key], kind)]:
        raise ValueError(f"ablate: {path}: `{wrong[0]}` must be a list, as in experiments/suites/key_rows.yaml, got {values[wrong[0]]!r}")
    stages = {name: beside(path, file) for name, file in values["stages"].items()}
    rows = tuple(read_row(path.parent / ROWS / f"{name}.yaml", stages) for name in values["rows"])
    if unknown := sorted((values.get("set") or {}).keys() - stages.keys()):
        raise ValueError(f"ablate: {path} changes the stage {unknown[0]!r}, which the row does not have")
    return Suite(
        path,
        Path(values["data"]),
        tuple(map(str, values.get("world") or ())),
        beside(path, values["encode"]) if values.get("encode") else None,
        stages,
        rows,
        tuple(values["seeds"]),
        int(values["clips"]),
        values.get("set") or {},
        tuple(values.get("claims") or ()),
    )


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def digest(made_of: Any) -> str:
    """Digest, ten digits, of everything that determines a run or a folder of clips."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:10]


def words_of(changes: Mapping[str, Any]) -> list[str]:
    """Changes as command-line arguments."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changes.items()]


def runs_of(suite: Suite, row: Row, seed: int, out: Path) -> dict[str, Run]:
    """The runs of a row with a seed, by stage, parents first; stages that the row does not need are omitted.

    Args:
        suite: The suite.
        row: One of its rows.
        seed: One of its seeds.
        out: Folder of the suite's runs.

    Raises:
        ValueError: If a stage's parent is not an earlier stage.
    """
    runs: dict[str, Run] = {}
    for stage, config in suite.stages.items():
        if stage in row.without:
            continue
        changes = {"seed_everything": seed, "data.init_args.root": str(suite.data)}
        changes |= {**suite.common.get(stage, {}), **row.changes.get(stage, {})}
        if stage in row.steps_of:
            changes["trainer.max_steps"] = sum(num_steps(suite, name) for name in row.steps_of[stage])
        made_of = settings.read([config], [*words_of(changes), *(f"--{key}=anywhere" for key in PLACE)])
        parents = {role: Path(str(run)).name for role, run in (made_of["model"]["init_args"].get("parents") or {}).items()}
        parents = {role: name for role, name in parents.items() if name not in row.without}
        if unknown := [name for name in parents.values() if name not in runs]:
            raise ValueError(f"ablate: {config} starts from {unknown[0]!r}, which must be a stage above it in {suite.path}")
        made_of["model"]["init_args"]["parents"] = {role: runs[name].folder.name for role, name in parents.items()}
        data = [suite.world, str(suite.encode)] if suite.encode else [suite.world]
        folder = out / "stages" / f"{stage}-{digest([*data, made_of])}"
        overlay: dict[str, Any] = {}
        for key, value in changes.items():
            overlay = settings.merge(overlay, settings.nested(key.split("."), value))
        words = ["fit", "-c", str(config), "-c", str(folder.with_suffix(".yaml"))]
        words += [f"--run.root={out}", "--run.experiment=stages", f"--run.stage={folder.name}"]
        if parents:
            words += words_of({"model.init_args.parents": {role: str(runs[name].folder) for role, name in parents.items()}})
        needs = tuple(runs[name].folder for name in parents.values())
        runs[stage] = Run(stage, folder, overlay, tuple(words), needs)
    return runs


def num_steps(suite: Suite, stage: str) -> int:
    """Optimiser steps of a stage in rows that do not change their number."""
    return int(settings.read([suite.stages[stage]], words_of(suite.common.get(stage, {})))["trainer"]["max_steps"])


def needed(runs: Mapping[str, Run], last: str) -> list[Run]:
    """The run with this folder name and all its ancestors, parents first."""
    wanted = {last}
    for run in reversed(list(runs.values())):
        if run.folder.name in wanted:
            wanted |= {folder.name for folder in run.needs}
    return [run for run in runs.values() if run.folder.name in wanted]


def steps(suite: Suite, out: Path, seeds: tuple[int, ...], experiments: Path) -> list[Step]:
    """All steps of the suite without duplicates, ordered by seed, so that an interrupted suite has complete seeds."""
    found: dict[str, Step] = {}
    if suite.world:
        found["data"] = Step("data", ["shards", "world", str(suite.data), *suite.world], suite.data / "index.json")
        encode = [
            "predict",
            "-c",
            str(suite.encode or experiments / "encode.yaml"),
            f"--data.init_args.root={suite.data}",
            f"--run.root={out}",
        ]
        found["encode"] = Step("encode", encode, suite.data / "cache.json", ("data",))
    first = tuple(found)[-1:]
    for seed in seeds:
        for row in suite.rows:
            runs = runs_of(suite, row, seed, out)
            clips = clip_step(suite, row, seed, runs, out)
            for run in needed(runs, clips.needs[0]):
                name = run.folder.name
                if name not in found:
                    run.write_overlay()
                    needs = (*first, *(folder.name for folder in run.needs))
                    found[name] = Step(name, list(run.words), run.folder / "manifest.json", needs)
            found[clips.name] = clips
    return list(found.values())


def clip_step(suite: Suite, row: Row, seed: int, runs: Mapping[str, Run], out: Path) -> Step:
    """The step that generates and scores the clips of a row with a seed. Like a run folder, its folder is named after a digest."""
    follows_planner = row.plan in ("planned", "shuffled")
    run, dit = runs[LAST] if follows_planner else runs[row.clips_of], runs[row.clips_of]
    words = ["generate", "--run", str(run.folder), "--plan", row.plan, "--num", str(suite.clips)]
    if follows_planner and row.clips_of != LAST:
        words += ["--dit", str(dit.folder)]
    folder = out / "clips" / f"{row.name}-{seed}-{digest([run.folder.name, dit.folder.name, row.plan, suite.clips])}"
    return Step(f"clips-{row.name}-{seed}", [*words, "--out", str(folder), "--force"], folder / "scores.json", (run.folder.name,))


def scores_file(suite: Suite, row: Row, seed: int, out: Path) -> Path:
    """File of a row's scores for a seed."""
    return clip_step(suite, row, seed, runs_of(suite, row, seed, out), out).done
