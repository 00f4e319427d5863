"""Reads the settings of an experiment without torch or Lightning, before its run is started.

Merging and defaults are done by the parser. This module implements only a few of its rules (later files win, lists replace, `key+:`
appends): enough to find a run's folder, devices and parents, and to compare settings with those of a finished run.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from baton_lightning.config import chain
from baton_lightning.folder_names import NAMES, named

DEEPEST = 100
"""Largest depth of nested mappings and lists in a configuration."""


def read(configs: list[str] | list[Path], words: list[str] | None = None) -> dict[str, Any]:
    """Settings of an experiment as plain values, with interpolations resolved.

    Args:
        configs: Experiment files; later ones overlay earlier ones.
        words: Overrides on the command line, ``--key=value`` or ``--key value``.

    Raises:
        ValueError: If a file is missing, is not a mapping, or refers to a key that does not exist.
    """
    merged: dict[str, Any] = {}
    for config in configs:
        for path in chain(Path(config)):
            values = parsed(path.read_bytes(), str(path))
            if not isinstance(values, dict):
                raise ValueError(f"configuration: {path} must hold `key: value` lines, got a {type(values).__name__}")
            merged = merge(merged, values)
    for key, value in overrides(words or []).items():
        merged = merge(merged, nested(key.split("."), value))
    merged.pop("base", None)
    try:
        return interpolated(merged)
    except OmegaConfBaseException as error:
        names = " ".join(map(str, configs))
        raise ValueError(f"configuration: {names}: {' '.join(str(error).split())}; check the spelling") from error


def interpolated(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with resolved interpolations.

    Raises:
        OmegaConfBaseException: If an interpolation has no value.
    """
    resolved: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    return resolved


def parsed(text: str | bytes, where: str) -> Any:
    """Parses YAML to plain values; interpolations are not resolved.

    Raises:
        ValueError: If the text is not YAML; the message contains ``where``.
    """
    try:
        return copy.deepcopy(_parsed(text if isinstance(text, str) else text.decode(), where))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError, TypeError) as error:
        message = " ".join(str(error).split()).replace('in "<unicode string>", ', "")
        raise ValueError(f"configuration: {where} must be YAML: {message:.400}") from error


@functools.lru_cache(maxsize=64)
def _parsed(text: str, where: str) -> Any:
    """The values of a text, parsed once: the stages of a chain share base files, and a suite reads them for every row."""
    require_shallow(text, where)
    return named(OmegaConf.to_container(OmegaConf.create(text), resolve=False), text)


def require_shallow(text: str, where: str) -> None:
    """Checks the depth of YAML. Deeper nesting would exhaust the stack of the parser, which ends the process.

    Raises:
        ValueError: If YAML is nested deeper than :data:`DEEPEST`; the message contains ``where``.
    """
    begin, end = (yaml.MappingStartEvent, yaml.SequenceStartEvent), (yaml.MappingEndEvent, yaml.SequenceEndEvent)
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, begin) - isinstance(event, end)
        if depth > DEEPEST:
            raise ValueError(f"configuration: {where} must be nested at most {DEEPEST} deep")


def require_mappings(files: Iterable[Path]) -> None:
    """Checks that configuration files are YAML and their sections are mappings.

    Raises:
        ValueError: If not. The message names the file and the section.
    """
    for file in files:
        values = parsed(file.read_bytes(), str(file))
        for section in ("clip", "run", "trainer", "model", "data") if isinstance(values, dict) else ():
            if not isinstance(given := values.get(section), dict | str | None):
                raise ValueError(f"configuration: `{section}` in {file} must be a mapping, `key: value`, got a {type(given).__name__}")


def read_yaml(path: Path, verb: str) -> Any:
    """Reads a YAML file that is not an experiment, e.g. a chain or a suite.

    Raises:
        ValueError: If it is not YAML; the message begins with ``verb``.
    """
    try:
        return yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(f"{verb}: {path} must be YAML: {' '.join(str(error).split())}") from error


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merges two layers of settings: mappings merge, ``key+`` appends to a list, other values replace."""
    merged = dict(below)
    for key, value in above.items():
        if key.endswith("+"):
            key = key[:-1]
            value = [*(merged.get(key) or []), *(value if isinstance(value, list) else [value])]
        known = merged.get(key)
        merged[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def overrides(words: list[str]) -> dict[str, Any]:
    """Overrides on the command line as key -> value; the last value of a key counts.

    Raises:
        ValueError: If an argument is not an override.
    """
    found: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        key, equals, value = word.partition("=")
        if not key.startswith("--"):
            raise ValueError(f"overrides must be --key=value, got {word!r}; e.g. --trainer.max_steps=100")
        if not equals:
            value = next(rest, "")
        if "${" in value or key[2:] in NAMES:
            found[key[2:]] = value
        else:
            found[key[2:]] = parsed(f"value: {value}", word)["value"]
    return found


def nested(keys: list[str], value: Any) -> dict[str, Any]:
    """``a.b: value`` as nested mappings."""
    return {keys[0]: nested(keys[1:], value) if keys[1:] else value}


def folder(settings: dict[str, Any]) -> Path:
    """The run folder."""
    run = settings.get("run") or {}
    return Path(str(run.get("root", "runs"))) / str(run.get("experiment", "demo")) / str(run.get("stage", "stage"))


def differences(now: Any, was: Any, name: str = "") -> list[str]:
    """Settings that differ from those of a finished run, as ``key: was -> now``. Only keys in both are compared."""
    if isinstance(now, dict) and isinstance(was, dict):
        return [d for key in now if key in was for d in differences(now[key], was[key], f"{name}.{key}" if name else str(key))]
    if isinstance(now, list) and isinstance(was, list) and len(now) == len(was):
        return [d for i, (a, b) in enumerate(zip(now, was, strict=True)) for d in differences(a, b, f"{name}.{i}")]
    if now == was or str(now) == str(was):
        return []
    return [f"{name}: {yaml.safe_dump(was, default_flow_style=True, width=1000).splitlines()[0]} -> {now}"]
