"""Keeps `segments.json`, the record of a run's sessions: for each the step it began at, its settings, what had changed, and the last
step it saved. A run resumes from a checkpoint only with the settings that made it, unless ``--resume changed`` allows others."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from baton_lightning import atomic
from baton_lightning.runs import checkpoints, ledgers, manifest, parents
from baton_lightning.sessions import compared
from baton_lightning.sessions.configured_optimizer import SETTINGS, ConfiguredOptimizer
from baton_lightning.sessions.start import NAME, Start, beginning, identity, read, start


def data_digest(datamodule: Any) -> str | None:
    """Digest of a data set; ``None`` if it has none or does not exist. The data module reports a missing data set itself."""
    with suppress(OSError):
        return datamodule.manifest_digest() if hasattr(datamodule, "manifest_digest") else None
    return None


def begin(
    folder: Path,
    *,
    resume: str,
    given: str | None,
    config: dict[str, Any],
    data: str | None,
    parents: dict[str, str],
) -> Segments:
    """Creates a session of a run. If it resumes from the run's own checkpoint, the settings must be those that made it.

    Args:
        folder: Run folder.
        resume: auto, changed or never.
        given: Checkpoint that the user gave.
        config: Resolved configuration.
        data: Digest of the data set.
        parents: Role -> run.

    Raises:
        ValueError: If a setting that affects the result changed and ``resume`` is not ``changed``, or if it cannot change on resume.
    """
    chosen = start(folder, given, resume)
    own = given is None or chosen.checkpoint != Path(given)
    session = Segments(folder, chosen, own=own, resume=resume, config=config, data=data, parents=parents)
    if own:
        session.require_same()
    return session


class Segments(Callback):
    """Compares the settings of a session with those that made its checkpoint, and writes the record of the session.

    Args:
        folder: Run folder.
        chosen: Where the session begins.
        own: Whether that is a checkpoint of this run, not one that the user gave.
        resume: auto, changed or never.
        config: Resolved configuration.
        data: Digest of the data set.
        parents: Role -> run.
    """

    def __init__(
        self,
        folder: Path,
        chosen: Start,
        *,
        own: bool,
        resume: str,
        config: dict[str, Any],
        data: str | None,
        parents: dict[str, str],
    ) -> None:
        self.folder, self.own, self.resume = folder, own, resume
        self.before, self.skipped = chosen.before, chosen.skipped
        self.config, self.data, self.parents = json.loads(json.dumps(config, default=str)), data, dict(parents)
        self.began_with: dict[str, dict[str, str]] = {}
        """Role -> run and digest of each parent, recorded at the start of the run."""
        self.segments: list[dict[str, Any]] = []
        self.set_checkpoint(chosen.checkpoint)

    def set_checkpoint(self, checkpoint: Path | None) -> None:
        """Sets the checkpoint to resume from. Finds the sessions that made it and the settings that differ from theirs."""
        self.checkpoint, self.step = checkpoint, 0
        self.known: list[dict[str, Any]] = []
        """Sessions that contributed steps to the checkpoint."""
        if checkpoint is not None:
            path = checkpoint.resolve()
            known = read(self.folder if self.own else path.parent.parent)
            whole = checkpoints.manifest_of(path).exists()
            self.step = int(checkpoints.read(path).get("step", 0)) if whole else 0
            if whole:  # sessions that began at this step or later contributed none
                self.known = [segment for i, segment in enumerate(known) if i == 0 or segment["step"] < self.step]
        self.found = self.changes()

    # ---- comparison
    def last(self, key: str) -> Any:
        """The value of ``key`` in the latest of these sessions that records it."""
        return next((segment[key] for segment in reversed(self.known) if key in segment), None)

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Key -> (value before, value now) of everything that differs from the sessions that made the checkpoint."""
        if not self.known:
            return {}
        found = compared.changes(self.last("config"), self.config)
        if None not in (was := self.last("data"), self.data) and was != self.data:
            roots = [compared.flatten(config).get(compared.DATA_ROOT) for config in (self.last("config"), self.config)]
            found["content of the data"] = (f"{roots[0]} ({was[:12]})", f"{roots[1]} ({str(self.data)[:12]})")
        return found | self.changed_parents()

    def changed_parents(self) -> dict[str, tuple[str, str]]:
        """Parents that were added, removed, or have other weights. A parent that was moved or deleted does not count as changed."""
        found, known = {}, self.last("parents") or {}
        for role in sorted(known.keys() | self.parents.keys()):
            was, run = known.get(role), self.parents.get(role)
            if was is None or run is None:
                found[f"parents.{role}"] = (was["run"] if was else compared.NONE, run or compared.NONE)
            elif was["run"] != run:
                digest = parents.described(Path(run), needed=False)["weights_sha256"]
                if digest not in (was["weights_sha256"], parents.UNKNOWN):
                    found[f"parents.{role}"] = (f"{was['run']} ({was['weights_sha256'][:12]})", f"{run} ({digest[:12]})")
        return found

    def result_changes(self) -> dict[str, tuple[Any, Any]]:
        """The changes that affect the result."""
        found = {key: values for key, values in self.found.items() if compared.makes_the_result(key, *values)}
        if self.known and None in (self.data, self.last("data")):  # without a digest, only the paths can be compared
            found |= {key: values for key, values in self.found.items() if key == compared.DATA_ROOT}
        return found

    def require_same(self) -> None:
        """Checks that the settings are those that made the checkpoint.

        Raises:
            ValueError: If a setting changed without ``--resume changed``, or if it cannot change on resume. The message names both values.
        """
        if not (found := self.result_changes()):
            return
        assert self.checkpoint is not None  # without a checkpoint there are no changes
        if fixed := {key: values for key, values in found.items() if compared.is_fixed(key, *values)}:
            raise ValueError(
                f"{self.folder}/ cannot resume from {self.checkpoint.name}, because settings of its content changed: "
                f"{compared.summary(fixed)}; restore the settings, or give another run.experiment"
            )
        if self.resume != "changed":
            raise ValueError(
                f"{self.folder}/ must resume with the settings that made {self.checkpoint.name}, but these changed: "
                f"{compared.summary(found)}; restore them, give `--resume changed` to resume with the new values and record the change, "
                f"or give another run.experiment"
            )

    def print_resume(self) -> None:
        """Prints which checkpoint the session resumes from, and with which changes."""
        for name, why in self.skipped.items():
            print(f"skipping {self.folder}/checkpoints/{name}: {why}", file=sys.stderr, flush=True)
        steps = ledgers.last_step(self.folder) if self.own and self.resume != "never" else 0
        if self.checkpoint is None:
            if steps:
                print(f"{self.folder}/ has no checkpoint yet: its {steps} steps are repeated", flush=True)
            return
        if not self.known:
            print(f"{self.checkpoint}: the settings that made it are not recorded, so they were not compared", flush=True)
        if found := self.result_changes():
            print(f"changed since {self.checkpoint} was made: {compared.summary(found)}", flush=True)
        if self.own:
            again = f", {steps - self.step} steps before the last one in its ledger" if steps > self.step else ""
            print(f"resuming {self.folder}/ from {self.checkpoint}{again}", flush=True)

    @property
    def has_another_optimizer(self) -> bool:
        """Whether a setting of the optimiser changed. Restoring the checkpoint would undo it."""
        return any(key.startswith(SETTINGS) for key in self.result_changes())

    def callbacks(self) -> list[Callback]:
        """Callbacks that the trainer needs for this session."""
        return [self, ConfiguredOptimizer()] if self.has_another_optimizer else [self]

    # ---- record
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the record. By now all ranks are connected and have compared their settings, and the data set is available."""
        if stage != "fit" or not trainer.is_global_zero or self.segments:
            return
        versions = {name: version(name) for name in manifest.PACKAGES} | {"git_commit": manifest.git_commit()}
        with suppress(PackageNotFoundError):  # the checkout is not installed
            versions["baton-lightning"] = version("baton-lightning")
        if other := compared.differences(self.last("versions") or versions, versions):
            print(f"versions changed since {self.checkpoint} was made: {compared.summary(other)}", flush=True)
        segment: dict[str, Any] = {"step": self.step, "began": time.time(), "changed": compared.lines(self.found | other)}
        if not self.own and self.checkpoint is not None:
            segment["given"] = identity(self.checkpoint)
        now = {"config": self.config, "data": self.data, "parents": self.began_with, "versions": versions}
        segment |= {key: value for key, value in now.items() if not self.known or self.last(key) != value}
        self.segments = [*self.known, segment]
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.resume == "never" and (kept := ledgers.set_aside(self.folder)):
            print(f"{self.folder}/ starts again; the ledger of the previous run is kept as {kept.name}", flush=True)
        self.write()

    @property
    def run(self) -> float | None:
        """Identifies the run among others that began in the same folder: the time of its start, ``None`` before the record is written."""
        return beginning(self.segments)["began"] if self.segments else None

    def note_saved(self, step: int) -> None:
        """Records that the checkpoint of a step is complete. If it is missing at the next start, it was deleted."""
        self.segments[-1]["saved"] = step
        self.write()

    def write(self) -> None:
        atomic.write_text(self.folder / NAME, json.dumps(self.segments, indent=1))

    @property
    def described(self) -> dict[str, Any]:
        """Entries for the manifest: the step at which each session began, and what had changed."""
        kept = ("step", "changed", "given")
        return {"segments": [{key: segment[key] for key in kept if key in segment} for segment in self.segments]}
