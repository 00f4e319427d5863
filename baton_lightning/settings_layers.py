"""Reads the command line of a Lightning verb without the parser: files and overrides as layers, and the digest of everything that
determines the settings of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from baton_lightning import settings

SECTIONS = ("clip", "run", "trainer")
"""Sections whose keys are the arguments of one class."""
CLASSES = ("model", "data", "optimizer", "lr_scheduler")
"""Sections that name a class."""
ENTRY = ("class_path", "init_args", "dict_kwargs")
BEGINNING = ("base", "resume", "config", "ckpt_path", "weights_only")
"""Settings that only concern the start of a session."""
OWN = ("baton_lightning", "datamodules", "callbacks")
LIBRARIES = ("torch", "lightning", "transformers", "diffusers", "deepspeed", "jsonargparse", "omegaconf")


class NeedsParser(Exception):
    """Only the full parser can decide."""


@dataclass(frozen=True)
class Layer:
    """Settings of one file or of one override.

    Args:
        values: Nested mappings. The value of an override is its text, ``None`` if there is none.
        word: Whether it is an override of the command line.
    """

    values: dict[str, Any]
    word: bool


def read(argv: list[str]) -> list[Layer]:
    """Layers of files and overrides of a command line, in order.

    Args:
        argv: Arguments in which ``base:`` chains are expanded.

    Raises:
        Unclear: If they ask for help, or only the parser can read them.
    """
    layers: list[Layer] = []
    below: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        key, equals, text = rest.pop(0).partition("=")
        if not key.startswith("--") or key.endswith(".help") or key in ("--help", "--print_config"):
            raise NeedsParser
        given = text if equals else rest.pop(0) if rest and not rest[0].startswith("--") else None
        if key == "--config":
            layers.append(Layer(values_of(Path(given or "")), word=False))
        else:
            layers.append(Layer(settings.nested(complete_key(key[2:].split("."), below), given), word=True))
        below = settings.merge(below, layers[-1].values)
    return layers


def values_of(file: Path) -> dict[str, Any]:
    """Settings of a file.

    Raises:
        Unclear: If the file is not a mapping in YAML.
    """
    try:
        values = settings.parsed(file.read_bytes(), str(file))
    except ValueError as error:
        raise NeedsParser from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise NeedsParser
    return values


def complete_key(keys: list[str], below: dict[str, Any]) -> list[str]:
    """A dotted key, completed with ``init_args``, which overrides may omit."""
    found: list[str] = []
    node: Any = below
    for key in keys:
        if key not in ENTRY and (found in [[name] for name in CLASSES] or (isinstance(node, dict) and "class_path" in node)):
            found.append("init_args")
            node = node.get("init_args") if isinstance(node, dict) else None
        found.append(key)
        node = node.get(key) if isinstance(node, dict) else None
    return found


def merged(layers: list[Layer]) -> dict[str, Any]:
    """All layers merged."""
    below: dict[str, Any] = {}
    for layer in layers:
        below = settings.merge(below, layer.values)
    return below


def resolved(layers: list[Layer]) -> dict[str, Any]:
    """All layers merged, with interpolations resolved.

    Raises:
        Unclear: If an interpolation has no value, or a section is not a mapping.
    """
    try:
        chosen = settings.interpolated(merged(layers))
    except OmegaConfBaseException as error:
        raise NeedsParser from error
    if not all(isinstance(chosen.get(section, {}), dict) for section in (*SECTIONS, "model", "data")):
        raise NeedsParser  # the section names a file of settings
    if not all(isinstance(chosen.get("run", {}).get(key, ""), str) for key in ("root", "experiment", "stage")):
        raise NeedsParser  # the parser may format a number differently
    return chosen


def settings_digest(argv: list[str]) -> str | None:
    """Digest of everything that determines the settings of a run, for its manifest; ``None`` if this needs the parser.

    Args:
        argv: Arguments of ``fit`` in which ``base:`` chains are expanded.
    """
    try:
        layers = read(argv)
        return digest(layers, resolved(layers))
    except (NeedsParser, OSError):
        return None


def digest(layers: list[Layer], chosen: dict[str, Any]) -> str:
    """SHA-256 of the given settings, of the code that defines defaults, and of the versions of libraries.

    Args:
        layers: Files and overrides.
        chosen: All layers merged, with interpolations resolved.

    Raises:
        Unclear: If settings name a class of another package, or a file of settings.
    """
    given = [
        {key: value for key, value in values.items() if key not in BEGINNING} for values in (*(layer.values for layer in layers), chosen)
    ]
    if any(isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")) for value in leaves(given)):
        raise NeedsParser
    if any(name.partition(".")[0] not in (*OWN, *LIBRARIES) for name in class_paths(given)):
        raise NeedsParser
    try:
        versions = {name: version(name) for name in LIBRARIES}
    except PackageNotFoundError as error:
        raise NeedsParser from error
    found = hashlib.sha256(json.dumps([versions, *filter(None, given)], default=str).encode())
    for package in OWN:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(folder).rglob("*.py")):
                found.update(file.read_bytes())
    return found.hexdigest()


def leaves(values: Any) -> Iterator[Any]:
    """Yields the plain values inside nested mappings and lists."""
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from leaves(value)
    else:
        yield values


def class_paths(values: Any) -> Iterator[str]:
    """Yields the class paths in settings."""
    if isinstance(values, dict):
        if "class_path" in values:
            yield str(values["class_path"])
        values = list(values.values())
    for value in values if isinstance(values, list) else ():
        yield from class_paths(value)
