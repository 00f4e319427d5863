"""Decides which settings may change between the sessions of a run. The lists here are the only place that names them.

Settings are the resolved configuration as plain values. The paths of the data set and of the parents may change as well. The digests
of their content are compared instead.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from baton_lightning.explain import present_name

MAY_CHANGE = (
    "run.*",  # run folder and checkpoint interval
    "trainer.default_root_dir",
    "trainer.logger*",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.profiler*",
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
    "trainer.limit_val_batches",
    "trainer.limit_test_batches",
    "trainer.limit_predict_batches",
    "trainer.num_sanity_val_steps",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.devices",  # construction/sharding.py refuses DeepSpeed's shards with another number of devices
    "trainer.num_nodes",
    "data.init_args.num_workers",
    "data.init_args.max_damaged",
)
MAY_GROW = ("trainer.max_steps", "trainer.max_epochs")
"""Settings that may be raised. -1 means no limit."""
WATCHING = (
    "baton_lightning.runs.saving.AtomicCheckpoint",
    "callbacks.ledger.Ledger",
    "callbacks.requeue.Requeue",
    "callbacks.run_summary.RunSummary",
    "callbacks.sample_logger.SampleLogger",
    "callbacks.step_progress.StepProgress",
    "callbacks.throughput.Throughput",
    "callbacks.watchdog.Watchdog",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.callbacks.ModelSummary",
    "lightning.pytorch.callbacks.RichProgressBar",
    "lightning.pytorch.callbacks.TQDMProgressBar",
)
"""Callbacks that only save, display or stop a run. They do not change its weights. A change of any other callback counts."""
PARENTS, DATA_ROOT, CALLBACKS = "model.init_args.parents", "data.init_args.root", "trainer.callbacks"
FIXED = (
    "parents.*",
    "model.init_args.optimizer",
    "model.init_args.optimizer.class_path",
    "seed_everything",
    "trainer.accumulate_grad_batches",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
    "data.init_args.epoch_clips",
)
"""Settings that cannot change on resume. A checkpoint holds weights that came from the parents, the state of one class of optimiser and
of its parameter groups, and a position in the order of the clips."""
NONE = "none"
OFF: tuple[Any, ...] = (None, [])


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys. Classes that were renamed appear under their present names."""
    if isinstance(values, dict) and values:
        return {k: v for key, child in values.items() for k, v in flatten(child, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: present_name(values) if isinstance(values, str) else values}


def changes(was: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value before, value now) of all settings that differ. Callbacks are compared by class; their order does not count.

    Args:
        was: Resolved configuration before.
        now: Resolved configuration now.
    """
    return differences(flatten(named_callbacks(was)), flatten(named_callbacks(now)))


def differences(was: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (value before, value now) of all entries that differ in two flat mappings; ``none`` stands for a missing entry.

    A setting that an older version lacks does not differ from one that is off, i.e. null or an empty list.
    """
    values = {key: (was.get(key, NONE), now.get(key, NONE)) for key in sorted(was.keys() | now.keys())}
    return {key: (before, after) for key, (before, after) in values.items() if before != after and not (before == NONE and after in OFF)}


def named_callbacks(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with the list of callbacks replaced by a mapping from class to settings."""
    trainer = settings.get("trainer") or {}
    entries = trainer.get("callbacks") or []
    named: dict[str, Any] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        name, init_args = (entry["class_path"], entry.get("init_args") or {}) if isinstance(entry, dict) else (str(entry), {})
        while name in named:
            name += "'"
        named[name] = init_args
    return settings | {"trainer": trainer | {"callbacks": named}}


def makes_the_result(key: str, was: Any, now: Any) -> bool:
    """Whether this change affects the result of the run.

    Args:
        key: Dotted key, see :func:`changes`.
        was: Value before.
        now: Value now.
    """
    if key.startswith((PARENTS, DATA_ROOT)) or any(fnmatchcase(key, free) for free in MAY_CHANGE):
        return False
    if key in MAY_GROW and isinstance(was, int) and isinstance(now, int):
        return not (now == -1 or -1 < was < now)
    return not any(key == f"{CALLBACKS}.{name}" or key.startswith(f"{CALLBACKS}.{name}.") for name in WATCHING)


def is_fixed(key: str, was: Any, now: Any) -> bool:
    """Whether a setting cannot change on resume, because the change would have no effect or an unsound one.

    Args:
        key: Dotted key, see :func:`changes`.
        was: Value before.
        now: Value now.
    """
    another_group = key.startswith("model.init_args.rates.") and NONE in (was, now)
    return another_group or any(fnmatchcase(key, fixed) for fixed in FIXED)


def lines(found: dict[str, tuple[Any, Any]]) -> list[str]:
    """Changes as ``key: before -> now``."""
    return [f"{key}: {was} -> {now}" for key, (was, now) in found.items()]


def summary(found: dict[str, tuple[Any, Any]], most: int = 6) -> str:
    """Changes in one line; the first ``most`` are listed, the others are counted."""
    listed = lines(found)
    return "; ".join(listed[:most]) + (f"; and {len(listed) - most} more" if len(listed) > most else "")
