"""Backends: published networks that measure one clip. Measurements are cached, one JSON file per clip."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from baton_lightning import atomic
from baton_lightning.metrics.clips import Clip, ClipExcluded
from baton_lightning.plain_files import read_json

if TYPE_CHECKING:
    import torch

Measured = dict[str, Any]
"""A backend's measurement of one clip: plain JSON values."""


class Backend(Protocol):
    """Measures one clip. Weights are loaded when the first clip is measured, so cached measurements need no weights."""

    @property
    def protocol(self) -> str:
        """Networks, checkpoints and settings in one line. Cached measurements are used only if the protocol is the same."""

    def measure(self, clip: Clip) -> Measured:
        """Measurement of one clip, plain JSON.

        Raises:
            ClipExcluded: If this clip cannot be measured.
            ValueError: If a package or weights are missing; the message names them and how to install them.
        """


class Recorded:
    """Measurements from elsewhere: ``k.<kind>.json`` beside ``k.mp4``, in the format of a backend's measurement.

    Args:
        kind: ``transcript`` (``{"segments": [{"speaker": ..., "text": ...}], "named": false}``), ``answers``
            (``{"answers": ["yes", ...]}``), or any other name.
        source: Origin of the measurements; part of the protocol.
    """

    def __init__(self, kind: str, source: str = "") -> None:
        self.kind, self.source = kind, source

    @property
    def protocol(self) -> str:
        return f"recorded {self.kind}s" + (f" of {self.source}" if self.source else "")

    def measure(self, clip: Clip) -> Measured:
        file = clip.file.with_suffix(f".{self.kind}.json")
        if not file.exists():
            raise ClipExcluded(f"no {self.kind}: k.{self.kind}.json is not beside k.mp4")
        return require_mapping(read_json(file), file)


def require_mapping(values: Any, file: Path) -> Measured:
    """Content of a file that must be a JSON object.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold a JSON object, got a {type(values).__name__}")
    return values


def import_optional(module: str, install: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
        module: Name of the module.
        install: Instruction to install the package, for the error message.

    Raises:
        ValueError: If it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a binary built for another torch
        raise ValueError(f"needs the package {module.partition('.')[0]}, which cannot be imported ({error}): {install}") from error


def default_device() -> torch.device:
    """The GPU if there is one, otherwise the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cached_measurement(backend: Backend, clip: Clip, folder: Path) -> Measured:
    """Measurement of a clip, read from ``<folder>/<backend>/<key>.json`` if clip and protocol are unchanged, otherwise measured and saved.

    Args:
        backend: Measures the clip.
        clip: The clip.
        folder: Folder of cached measurements.
    """
    if isinstance(backend, Recorded):
        return backend.measure(clip)
    file = folder / type(backend).__name__ / f"{clip.key}.json"
    stamp = {"protocol": backend.protocol, "clip": clip.digest}
    if file.exists():
        record = require_mapping(read_json(file, finite=False), file)
        if {name: record.get(name) for name in stamp} == stamp:
            return record["measured"]
    measured = backend.measure(clip)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, json.dumps({**stamp, "measured": measured}, indent=1, ensure_ascii=False))
    return measured
