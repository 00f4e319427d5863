"""Check of what happens if a killed run is resumed with one changed setting: the change is refused or reported, or it has no effect.

A run is killed after its first checkpoint. For each change, a copy of the run is resumed with the changed setting. A change that is refused
is also tried with ``--resume changed``. A change that is free must give the same weights as an uninterrupted run, unless it makes the run
longer or uses more processes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from baton_lightning import atomic
from baton_lightning.bench.resume_case import CLIPS, SAVE_EVERY, Case, first_difference, log
from baton_lightning.launch.processes import Ranks, call, kill_at
from baton_lightning.runs.ledgers import NAME as LEDGER
from baton_lightning.sessions.start import NAME as SEGMENTS

STEPS, KILLED = 2 * SAVE_EVERY, SAVE_EVERY + 1
Callbacks = list[dict[str, Any]]
MODEL, DATA, OPTIMIZER = "model.init_args", "data.init_args", "model.init_args.optimizer.init_args"


@dataclass(frozen=True)
class Change:
    """One setting that is changed when a run is resumed.

    Args:
        key: Name of the changed setting in the comparison of settings.
        words: Additional command-line arguments; ``{work}`` stands for the folder of the benchmark.
        wanted: Expected result: ``refused``; ``free``, where the run resumes and ends with the same weights; or ``other``, where the run
            resumes and may end with other weights.
        changed: Expected result with ``--resume changed``: ``resumes`` or ``refused``.
        callbacks: Function that changes the list of callbacks, instead of ``words``.
        ranks: Number of processes.
    """

    key: str
    words: tuple[str, ...] = ()
    wanted: str = "refused"
    changed: str = "resumes"
    callbacks: Callable[[Callbacks], Callbacks] | None = None
    ranks: int = 1


def given(key: str, value: str, wanted: str = "refused", changed: str = "resumes", name: str = "", ranks: int = 1) -> Change:
    """A change of a setting on the command line."""
    return Change(name or key, (f"--{key}={value}",), wanted, changed, ranks=ranks)


def of_callback(class_path: str, setting: str, value: Any, wanted: str) -> Change:
    """A change of a callback's setting."""

    def change(callbacks: Callbacks) -> Callbacks:
        for entry in callbacks:
            if entry["class_path"] == class_path:
                entry.setdefault("init_args", {})[setting] = value
        return callbacks

    return Change(f"trainer.callbacks.{class_path}.{setting}", wanted=wanted, callbacks=change)


CHANGES = (
    given(f"{OPTIMIZER}.lr", "0.01"),
    given(f"{OPTIMIZER}.weight_decay", "0.1"),
    given(f"{OPTIMIZER}.betas", "[0.8,0.9]"),
    given(f"{OPTIMIZER}.matrix_rate", "2.0"),
    Change(f"{MODEL}.optimizer.class_path", (f"--{MODEL}.optimizer=torch.optim.AdamW",), changed="refused"),
    given(f"{MODEL}.scheduler.init_args.warmup_steps", "3"),
    given(f"{MODEL}.scheduler.init_args.floor", "0.5"),
    given(f"{MODEL}.rates", "{planner.readout: 0.1}", changed="refused", name=f"{MODEL}.rates.planner.readout"),
    given(f"{MODEL}.planner.init_args.placeholder_std", "0.5"),
    given(f"{MODEL}.planner.init_args.frozen", "[language]", changed="refused"),
    given(f"{MODEL}.planner.init_args.llm.init_args.width", "48", changed="refused"),
    given(f"{MODEL}.planner.init_args.llm.init_args.depth", "2", changed="refused"),
    given("clip.seconds", "1.0", changed="refused"),
    given("clip.keyframe_fps", "3", changed="refused"),
    given("seed_everything", "7", changed="refused"),
    given(f"{DATA}.batch_size", "2", changed="refused"),
    given(f"{DATA}.root", "{work}/other", name="content of the data"),
    given(f"{DATA}.root", "{work}/moved", "free"),
    given(f"{DATA}.buckets", "[av]"),
    given(f"{DATA}.epoch_clips", "16", changed="refused"),
    given(f"{DATA}.num_workers", "1", "free"),
    given(f"{DATA}.max_damaged", "3", "free"),
    given("trainer.precision", "bf16-mixed"),
    given("trainer.strategy", "auto"),
    given("trainer.gradient_clip_val", "0.1"),
    given("trainer.gradient_clip_algorithm", "value"),
    given("trainer.accumulate_grad_batches", "2", changed="refused"),
    given("trainer.max_steps", str(STEPS - 2)),
    given("trainer.max_steps", str(STEPS + 4), name=f"{MODEL}.scheduler.init_args.total_steps"),
    Change("trainer.max_steps", (f"--trainer.max_steps={STEPS + 4}", f"--{MODEL}.scheduler.init_args.total_steps={STEPS}"), "other"),
    given("trainer.max_epochs", "1"),
    given("trainer.limit_train_batches", "2", changed="refused"),
    given("trainer.deterministic", "true"),
    given("trainer.devices", "2", "other", ranks=2),
    given("trainer.val_check_interval", "3", "free"),
    given("trainer.limit_val_batches", "0", "free"),
    given("trainer.log_every_n_steps", "1", "free"),
    given("trainer.logger.init_args.flush_secs", "60", "free"),
    given("trainer.profiler", "simple", "free"),
    given("trainer.max_time", "00:10:00:00", "free"),
    given("trainer.enable_model_summary", "true", "free"),
    given("run.checkpoint_every", "7", "free"),
    Change("trainer.callbacks.callbacks.ema.EMA.decay", ("--trainer.callbacks+=callbacks.ema.EMA",)),
    of_callback("callbacks.gradient_guard.GradientGuard", "action", "skip", "refused"),
    of_callback("callbacks.watchdog.Watchdog", "seconds", 900.0, "free"),
    of_callback("callbacks.ledger.Ledger", "patience", 100, "free"),
    of_callback("callbacks.sample_logger.SampleLogger", "num_samples", 1, "free"),
    of_callback("baton_lightning.runs.saving.AtomicCheckpoint", "every_n_train_steps", 3, "free"),
    of_callback("baton_lightning.runs.saving.AtomicCheckpoint", "save_top_k", 1, "free"),
)  # fmt: skip


def try_all(work: Path, changes: tuple[Change, ...], experiments: Path, data: Path | None = None) -> list[dict[str, Any]]:
    """Tries all changes.

    Args:
        work: Folder of the data sets and runs.
        changes: Changes to try.
        experiments: Folder of the experiment files.
        data: A cached data set; ``None`` builds one.

    Returns:
        For each change: ``key``, the values ``was`` and ``now``, the results ``auto`` and ``changed`` with these values of ``--resume``,
        and ``fault``, which is empty if the results are as expected.
    """
    case = Case(work, "stage1", "ddp", steps=STEPS, kills=1, data=data, experiments=experiments)
    case.prepare()
    whole, cut = case.run("settings-whole"), case.run("settings-cut")
    for folder in (whole, cut):
        shutil.rmtree(folder.parent, ignore_errors=True)
    call(case.command("settings-whole"), case.output_file)
    kill_at(case.command("settings-cut"), case.output_file, 1, cut / LEDGER, KILLED)
    other_sets(case)
    rows = []
    for change in changes:
        rows.append(try_change(case, change, whole, cut))
        log(f"{len(rows)}/{len(changes)} " + "  ".join(str(rows[-1][name]) for name in ("key", "was", "now", "auto", "changed", "fault")))
    return rows


def other_sets(case: Case) -> None:
    """Makes a copy of the data set in another folder, and another data set with the same number of clips."""
    moved, other = case.work / "moved", case.work / "other"
    if not moved.exists():
        shutil.copytree(case.root, moved)
    if not (other / "cache.json").exists():
        shutil.rmtree(other, ignore_errors=True)
        sizes = ["--train", str(CLIPS), "--val", "4", "--test", "4", "--workers", "0"]
        call(["shards", "world", str(other), *sizes, "--seed", "1"], case.output_file)
        paths = [f"--data.init_args.root={other}", f"--run.root={case.work}/runs", "--trainer.accelerator=cpu"]
        call(["predict", "-c", str(case.experiments / "encode.yaml"), *paths], case.output_file)


def try_change(case: Case, change: Change, whole: Path, cut: Path) -> dict[str, Any]:
    """Tries one change with ``--resume auto``, and also with ``--resume changed`` if it is expected to be refused."""
    code, output, run = resume(case, change, cut)
    line = next((line for line in output.splitlines() if f"{change.key}: " in line), "")
    row: dict[str, Any] = {"key": change.key, "was": "", "now": "", "auto": "", "changed": "", "fault": ""}
    if code == 0:
        line = next((line for line in recorded_in(run) if line.startswith(f"{change.key}: ")), "")
        difference = first_difference(whole, run)
        row["auto"] = ("reported" if f"{change.key}: " in output else "resumes") if line else "SILENT"
        row["auto"] += ", same weights" if difference is None else ", other weights"
        allowed = {"free": difference is None, "other": True, "refused": False}[change.wanted]
        row["fault"] = "" if line and allowed else difference or "the change was neither reported nor recorded"
    else:
        row["auto"] = "refused" if line and "Traceback" not in output else "FAILED"
        row["fault"] = "" if row["auto"] == change.wanted else last(output)
    if values := line.partition(f"{change.key}: ")[2].partition(";")[0]:
        row["was"], _, row["now"] = values.partition(" -> ")
    if change.wanted == "refused":
        code, output, run = resume(case, change, cut, "--resume=changed")
        row["changed"] = "resumes" if code == 0 else "refused" if "Traceback" not in output else "FAILED"
        reported = code != 0 or all(f"{change.key}: " in text for text in (output, "; ".join(recorded_in(run))))
        if row["changed"] != change.changed or not reported:
            row["fault"] += f" --resume changed: {row['changed']}, {'reported' if reported else 'not reported'}: {last(output)}"
    return row


def resume(case: Case, change: Change, cut: Path, *more: str) -> tuple[int, str, Path]:
    """Resumes a copy of the killed run. Returns the exit code, the output and the run folder."""
    name = "settings-changed"
    run = case.run(name)
    shutil.rmtree(run.parent, ignore_errors=True)
    shutil.copytree(cut.parent, run.parent, symlinks=True)
    command = case.command(name) + [word.format(work=case.work) if "{work}" in word else word for word in change.words] + list(more)
    if change.callbacks is not None:
        often = case.work / "often.yaml"
        settings = yaml.safe_load(often.read_text())
        settings["trainer"]["callbacks"] = change.callbacks(settings["trainer"]["callbacks"])
        often.write_text(yaml.safe_dump(settings))
    ranks = Ranks(command, case.output_file, change.ranks)
    try:
        code = ranks.wait()
    finally:
        ranks.kill()
    return code, case.output_file.read_text(errors="replace"), run


def main(options: argparse.Namespace) -> int:
    """Tries all changes and prints a table. The exit code is 1 if a result is not as expected."""
    from rich.console import Console
    from rich.table import Table

    with tempfile.TemporaryDirectory(prefix="bench-resume-") as scratch:
        rows = try_all((options.work or Path(scratch)).resolve(), CHANGES, options.experiments, options.data)
    faults = [f"{row['key']}: {row['fault']}" for row in rows if row["fault"]]
    if options.json:
        headline = {"as_wanted": not faults, "first_fault": next(iter(faults), None)}
        atomic.write_text(options.json, json.dumps({"headline": headline, "changes": rows}, indent=1) + "\n")
    table = Table(title=f"stage1, killed after step {KILLED}, resumed with one setting changed")
    for column in ("setting", "was", "now", "--resume auto", "--resume changed"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(shortened(row["key"]), *(str(row[name]) for name in ("was", "now", "auto", "changed")))
    Console().print(table)
    for fault in faults:
        log(f"FAULT {fault}")
    return bool(faults)


def shortened(key: str) -> str:
    """A key without the prefixes of callbacks and without ``init_args``."""
    return re.sub(r"(^trainer\.callbacks\.([a-z_]+\.)+|init_args\.)", "", key)


def recorded_in(run: Path) -> list[str]:
    """Changes that the latest session of a run recorded."""
    return json.loads((run / SEGMENTS).read_text())[-1]["changed"]


def last(output: str) -> str:
    """The last line of the output that is not empty, at most 300 characters."""
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")[:300]
