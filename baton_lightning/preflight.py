"""Checks of a Lightning verb before torch is loaded: missing files, unknown keys and classes, missing parents or data, and finished runs.

Only certain errors are reported, with the same text as the full parser. All other cases are left to the parser.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from baton_lightning import next_steps, settings, settings_layers
from baton_lightning.clip import ClipSpec
from baton_lightning.config import expand
from baton_lightning.keys import Walk, in_mapping, known
from baton_lightning.names import printable
from baton_lightning.runs import manifest
from baton_lightning.settings_layers import Layer, NeedsParser

SHARDS = "datamodules.webshards.WebShards"
NEVER_REFUSED = (
    "run.*",
    "clip.*",
    "resume",
    "seed_everything",
    "data.init_args.root",
    "data.init_args.batch_size",
    "model.init_args.parents.*",
    "model.init_args.*scheduler.init_args.*",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.max_time",
    "trainer.val_check_interval",
    "trainer.log_every_n_steps",
    "trainer.enable_*",
)
"""Overrides that no constructor refuses if their type is right and numbers are positive. With any other override, checks are skipped,
because the error of a constructor has to be reported first."""


def early_exit_code(verb: str, argv: list[str]) -> int | None:
    """Handles a Lightning verb without torch, if the outcome is already certain.

    Args:
        verb: fit, validate, test or predict.
        argv: Its arguments.

    Returns:
        Exit code; ``None`` if the verb must be run.

    Raises:
        ValueError: If a configuration file, weights to score, a parent run or the data set is missing.
    """
    try:
        layers = settings_layers.read(expand(argv))
        walk = Walk(known(verb), settings_layers.merged(layers))
        if complaint := next(walk.complaints(layers), None):
            print(f"baton_lightning: error: {printable(complaint)}", file=sys.stderr)
            return 2
        chosen = settings_layers.resolved(layers)
        folder = settings.folder(chosen)
        if verb == "fit" and chosen.get("resume") != "never" and (folder / manifest.NAME).exists():
            if manifest.read(folder).get("asked") != settings_layers.digest(layers, chosen):
                return None
            print(finished(folder))
            next_steps.name_after_run(folder)
            return 0
    except NeedsParser:
        return None
    if walk.sure and accepted(layers, chosen):
        require_weights(verb, chosen, folder)
        require_parents(verb, layers, chosen, folder)
        require_data(chosen)
    return None


def finished(folder: Path) -> str:
    """Message about a run that is already finished."""
    return f"{folder}/ is finished; nothing to do (delete the folder or give another run.experiment to train again)"


def accepted(layers: list[Layer], chosen: dict[str, Any]) -> bool:
    """Whether the settings certainly raise no error in a constructor or on this machine that has to be reported first."""
    for word in (layer.values for layer in layers if layer.word):
        (key, value), *_ = flat(word).items()
        if value.startswith(("-", "0")) or not any(fnmatchcase(key, free) for free in NEVER_REFUSED):
            return False
    trainer, clip = chosen.get("trainer", {}), chosen.get("clip", {})
    if clip.get("geometries"):
        return False
    if "deepspeed" in str(trainer.get("strategy")).lower() or str(trainer.get("precision")) in ("bf16-true", "16-true"):
        return False
    try:
        read: dict[str, Any] = {key: settings.parsed(f"value: {value}", key)["value"] for key, value in clip.items()}
        read |= {key: tuple(value) for key, value in read.items() if isinstance(value, list)}
        ClipSpec(**read)
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return False
    return True


def flat(word: dict[str, Any]) -> dict[str, str]:
    """The dotted key of an override -> its value."""
    key, value = next(iter(word.items()))
    return {f"{key}.{inner}": text for inner, text in flat(value).items()} if isinstance(value, dict) else {key: str(value)}


def require_weights(verb: str, chosen: dict[str, Any], folder: Path) -> None:
    """Checks that ``validate`` and ``test`` are given weights.

    Raises:
        ValueError: If they are not. The message names available weights.
    """
    if verb in ("validate", "test") and chosen.get("ckpt_path") is None:
        raise ValueError(no_weights(verb, folder))


def no_weights(verb: str, folder: Path) -> str:
    """Message that a verb needs weights to score."""
    weights = folder / manifest.WEIGHTS
    there = f"the finished run's {weights}" if weights.exists() else f"{manifest.WEIGHTS} of a finished run, or a checkpoint"
    return f"{verb} needs the weights that it scores, got no --ckpt_path; give {there}"


def require_parents(verb: str, layers: list[Layer], chosen: dict[str, Any], folder: Path) -> None:
    """Checks that the parents of a new run are finished, before its folder is created. A resumed run may have lost its parents.

    Raises:
        ValueError: If a parent is not finished. The message names the first one.
    """
    afresh = not chosen.get("ckpt_path") and (chosen.get("resume") == "never" or not folder.exists())
    if verb not in ("fit", "predict") or (verb == "fit" and not afresh):
        return
    parents = init_args(chosen, "model").get("parents")
    given = [found for layer in layers if isinstance(found := init_args(layer.values, "model").get("parents"), dict)]
    for role in given[-1] if given else ():  # later layers may replace earlier ones
        if isinstance(run := in_mapping(parents, role), str):
            manifest.read(Path(run))


def require_data(chosen: dict[str, Any]) -> None:
    """Checks that the data set exists.

    Raises:
        ValueError: If it does not. The message says how to build one.
    """
    from baton_lightning.shards.format import read_root

    root = init_args(chosen, "data").get("root")
    if isinstance(root, str) and chosen["data"].get("class_path") == SHARDS:
        read_root(Path(root))


def init_args(values: dict[str, Any], section: str) -> dict[str, Any]:
    """Arguments of the class that a section names, as far as the settings give them."""
    given = in_mapping(values.get(section), "init_args")
    return given if isinstance(given, dict) else {}
